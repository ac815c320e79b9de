//! Leases, passes and engines that end in the wrong order, and many passes in the right one.

use vram_device::Queue;
use vram_layers::{Error, LayerId, PassRequest};

use crate::common::{Raw, bytes, in_time, options};

const ALL: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// A lease named its unit by a number of the plan that it was taken under; after another plan it freed another unit,
/// or was out of range.
#[test]
fn a_lease_may_outlive_its_pass_and_its_plan() {
    for finish in [false, true] {
        for discrete in [false, true] {
            in_time("a late lease", move || {
                let raw = Raw::plain(5);
                let options = options(9000, Some(2100), 2);
                let budget = options.budget.clone();
                let engine = raw.engine(options, discrete);
                for layer in ALL {
                    let mut pass = engine.begin(PassRequest::default()).unwrap();
                    let lease = pass.lease(LayerId(layer), 0).unwrap();
                    let ticket = pass.device().ticket(Queue::Compute).unwrap();
                    pass.finish().unwrap();
                    engine.offload().unwrap();
                    assert!(bytes(&lease) == raw.layers[layer]);
                    assert!(budget.used() > 0, "what is leased is held");
                    if finish {
                        lease.finish(ticket);
                    } else {
                        drop(lease);
                    }
                    engine.onload().unwrap();
                    raw.pass(&engine, &ALL).unwrap();
                    assert!(budget.peak() <= budget.limit());
                }
                drop(engine);
                assert_eq!(budget.used(), 0);
            });
        }
    }
}

/// A lease dropped after its pass was kept for the end of the next, which its bytes kept from beginning.
#[test]
fn a_late_lease_does_not_keep_its_memory_for_ever() {
    in_time("another workspace", || {
        let raw = Raw::plain(6);
        let mut options = options(4096, Some(4096), 2);
        options.residents = false;
        let engine = raw.engine(options, false);
        let mut pass = engine.begin(PassRequest::default()).unwrap();
        let lease = pass.lease(LayerId(0), 0).unwrap();
        pass.finish().unwrap();
        drop(lease);
        let request = PassRequest { workspace: 2000, ..PassRequest::default() };
        let mut pass = engine.begin(request).unwrap();
        raw.check(&mut pass, 0).unwrap();
        pass.finish().unwrap();
    });
}

#[test]
fn a_lease_may_outlive_the_engine() {
    let raw = Raw::plain(7);
    let options = options(3000, None, 2);
    let budget = options.budget.clone();
    let engine = raw.engine(options, false);
    let mut pass = engine.begin(PassRequest::default()).unwrap();
    let lease = pass.lease(LayerId(3), 0).unwrap();
    pass.finish().unwrap();
    drop(engine);
    assert!(bytes(&lease) == raw.layers[3]);
    drop(lease);
    assert_eq!(budget.used(), 0);
}

#[test]
fn engines_come_and_go() {
    for i in 0..60 {
        in_time("an engine", move || {
            let raw = Raw::plain(i);
            let options = options(3500, None, 1 + i as usize % 3);
            let budget = options.budget.clone();
            let engine = raw.engine(options, i % 2 == 0);
            if let Ok(mut pass) = engine.begin(PassRequest::default()) {
                for layer in 0..(i as usize % 8) {
                    raw.check(&mut pass, layer).unwrap();
                }
            }
            drop(engine);
            assert_eq!(budget.used(), 0);
        });
    }
}

fn many_passes() {
    let count = |folder: &str| std::fs::read_dir(folder).map_or(0, Iterator::count);
    let held = |field: &str| -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    for discrete in [false, true] {
        let raw = Raw::plain(1);
        let mut options = options(4500, None, 3);
        options.host_weights = true;
        let (budget, host) = (options.budget.clone(), options.host_budget.clone());
        let engine = raw.engine(options, discrete);
        let holds = || (count("/proc/self/task"), count("/proc/self/fd"), budget.used(), host.used());
        let mut before = holds();
        let mut kibibytes = 0;
        for i in 0..1000 {
            if i == 100 {
                // Measured, planned anew, and warm.
                (before, kibibytes) = (holds(), held("VmRSS"));
            }
            let order = if i % 50 == 49 { &ALL[..5] } else { &ALL[..] };
            raw.pass(&engine, order).unwrap();
        }
        raw.pass(&engine, &ALL).unwrap();
        raw.pass(&engine, &ALL).unwrap();
        assert_eq!(holds(), before);
        let grown = held("VmRSS").saturating_sub(kibibytes);
        println!(
            "1,000 passes: {before:?} threads, handles, device and host bytes; {grown} KiB more resident"
        );
        assert!(grown <= 256, "{grown} KiB more than after 100 passes");
        assert!(matches!(
            engine.begin(PassRequest { workspace: 1 << 20, ..PassRequest::default() }).map(drop),
            Err(Error::BudgetTooSmall { .. })
        ));
        drop(engine);
        assert_eq!((budget.used(), host.used()), (0, 0));
    }
}

/// Threads are counted, so it runs in a process of its own, where no other test starts any.
#[test]
fn a_thousand_passes_hold_no_more_than_one() {
    const CHILD: &str = "VRAM_TEST_MANY_PASSES";
    if std::env::var_os(CHILD).is_some() {
        return many_passes();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "lifetime::a_thousand_passes_hold_no_more_than_one",
            "--test-threads",
            "1",
            "--nocapture",
        ])
        .env(CHILD, "1")
        // One heap: glibc has several for several threads, and which of them grow depends on who meets whom.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
