//! Without `debug_assertions` services are not wrapped, and functions do nothing.

/// Runs this file's other half: the same dependencies, and the crate as in a release build.
#[cfg(debug_assertions)]
#[test]
fn as_in_a_release_build() {
    use std::process::Command;
    let release = "profile.test.package.hotslot.debug-assertions=false";
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let output = Command::new(env!("CARGO"))
        .args(["test", "--all-features", "--manifest-path", manifest, "--test", "release"])
        .args(["--config", release, "--config", "profile.dev.package.hotslot.debug-assertions=false"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("inert::services_are_the_ones_given ... ok"), "{text}");
}

#[cfg(not(debug_assertions))]
mod inert {
    use axum::Router;

    #[test]
    fn services_are_the_ones_given() {
        let router: Router = hotslot::router(Router::new);
        let _: hotslot::Routes = router;
        let text: hotslot::Rebuild<String> = hotslot::rebuild(|| "any type".to_owned());
        assert_eq!(text, "any type");
    }

    #[test]
    fn hooks_are_dropped_and_sockets_new() {
        assert_eq!(hotslot::version(), 0);
        let held = std::sync::Arc::new(());
        let hook = std::sync::Arc::clone(&held);
        hotslot::on_patch(move |_| drop(hook.clone()));
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
        assert_ne!(hotslot::listener("127.0.0.1:0").unwrap().local_addr().unwrap().port(), 0);
    }
}
