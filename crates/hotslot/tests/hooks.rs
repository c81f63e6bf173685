//! `version` and `on_patch`, with the agent's word in the test's hands. One test, as there is one word.

mod agent;

use agent::announce;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn hooks_hear_of_every_change_from_one_thread() {
    let before = threads();
    hotslot::on_patch(|_| panic!("there was no agent when this was registered"));
    assert_eq!((hotslot::version(), threads()), (0, before));

    announce(0);
    let (sender, calls) = channel();
    let said = sender.clone();
    hotslot::on_patch(move |version| said.send(("first", version, thread::current().id())).unwrap());
    let said = sender.clone();
    let mut count = 0;
    hotslot::on_patch(move |version| {
        count += 1;
        if version == 1 {
            let said = said.clone();
            hotslot::on_patch(move |version| said.send(("nested", version, thread::current().id())).unwrap());
        }
        said.send(("counts", count, thread::current().id())).unwrap();
        if version == 1 {
            panic!("on purpose: a hook that panics");
        }
    });
    assert_eq!(threads(), before + 1);
    let next = || calls.recv_timeout(PATIENCE).unwrap();

    // A patch, the next one, and the undo of that.
    let mut ids = Vec::new();
    for (version, expected) in [
        (1, vec![("first", 1), ("counts", 1)]),
        (2, vec![("first", 2), ("counts", 2), ("nested", 2)]),
        (1, vec![("first", 1), ("counts", 3), ("nested", 1)]),
    ] {
        announce(version);
        assert_eq!(hotslot::version(), version);
        for expected in expected {
            let (name, value, thread) = next();
            assert_eq!((name, value), expected);
            ids.push(thread);
        }
    }
    assert!(ids.iter().all(|&id| id == ids[0] && id != thread::current().id()));

    // Patches while hooks are busy: as many calls as are needed to hear of the last.
    (2..=1000).for_each(announce);
    let last = std::iter::repeat_with(next).find(|&(name, version, _)| name == "nested" && version == 1000);
    assert!(last.is_some());
    assert_eq!(hotslot::version(), 1000);
}
