//! t
use statehold_model::{Configuration, Size};
#[test]
fn holds() {
    let only = std::env::var("ONLY").ok();
    for c in Configuration::all(Size::Small) {
        let n = c.name;
        if only.as_ref().is_some_and(|o| o != n) { continue; }
        let o = c.check(2);
        println!("{n}: {} worlds depth {} {:?} unseen {:?}", o.worlds, o.depth, o.took, o.unseen);
        for (b, p) in o.broken { println!("BROKEN {b}\n{p}"); }
    }
}
