//! Files as they are: what is left unread or out of a copy is said, and accepted by flags alone.

use std::fs;

use crate::{fixture, folder, json, run};

#[test]
fn extract_fails_with_code_3_if_it_would_leave_a_tensor_out() {
    // The story: a copy of a checkpoint with a sparse tensor was a checkpoint without it, and the
    // exit code was 0.
    let dir = folder();
    let path = fixture("torch/unreadable.pt");
    let (_, stderr) = run(&format!("extract {path} -o out.safetensors"), dir.path(), 3);
    assert!(stderr.contains("sparse: ") && stderr.contains("--skip-unreadable"), "{stderr}");
    let (_, stderr) = run(&format!("extract {path} --tensors sparse -o out.safetensors"), dir.path(), 3);
    assert!(stderr.contains("cannot be read: sparse: sparse tensors cannot be read"), "{stderr}");
    assert!(!dir.path().join("out.safetensors").exists());
    run(&format!("extract {path} --tensors plain -o part.safetensors"), dir.path(), 0);
    let done = json(&format!("extract {path} --skip-unreadable -o out.safetensors"), dir.path());
    assert_eq!((&done["tensors"], done["left_out"].as_array().unwrap().len()), (&1.into(), 5));
}

#[test]
fn extract_names_the_flag_for_a_tensor_out_of_proportion() {
    let dir = folder();
    let path = fixture("cases/P32-bad-strides/bomb.pt");
    let (_, stderr) = run(&format!("extract {path} -o out.safetensors"), dir.path(), 1);
    assert!(
        stderr.contains("4398046511104 bytes repeat 4") && stderr.contains("--allow-expanded"),
        "{stderr}"
    );
    run(&format!("extract {path} --tensors w -o out.safetensors"), dir.path(), 0);
}

#[test]
fn what_is_left_unread_is_said() {
    let dir = folder();
    let path = fixture("torch/foreign.pt");
    let (stdout, _) = run(&format!("inspect {path}"), dir.path(), 0);
    assert!(
        stdout.contains("left unread: hyper_parameters: an object of \"argparse.Namespace\""),
        "{stdout}"
    );
    let listed = json(&format!("inspect {path}"), dir.path());
    assert_eq!(listed["unread"].as_array().unwrap().len(), 10);
    assert_eq!(listed["unread"][2]["name"], "hyper_parameters");
    let (_, stderr) = run(&format!("extract {path} --skip-unreadable -o out.safetensors"), dir.path(), 0);
    assert!(stderr.contains("left unread: 10 values, callbacks.0 for one"), "{stderr}");
}

#[cfg(unix)]
#[test]
fn json_of_paths_that_are_not_utf_8_is_whole() {
    // The story: the document broke off in the middle of a path.
    use std::os::unix::ffi::OsStrExt;
    let dir = folder();
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"gr\xf6sse.pt"));
    if fs::copy(fixture("torch/lone.pt"), &odd).is_err() {
        eprintln!("skipped: the file system has no such names");
        return;
    }
    let out = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff.safetensors"));
    for args in [
        vec!["inspect".as_ref(), odd.as_os_str(), "--json".as_ref()],
        vec!["extract".as_ref(), odd.as_os_str(), "-o".as_ref(), out.as_os_str(), "--json".as_ref()],
    ] {
        let done = std::process::Command::new(env!("CARGO_BIN_EXE_vram")).args(args).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert!(json.is_object());
    }
    assert!(out.exists());
}

#[test]
fn the_conversion_that_comes_along_needs_no_file() {
    let dir = folder();
    let path = fixture("torch/module.bin");
    let listed = json(&format!("inspect {path} --convert layer-norm-names"), dir.path());
    assert_eq!(listed["tensors"].as_array().unwrap().len(), 4);
    run(&format!("inspect {path} --convert layer-norms"), dir.path(), 1);
}
