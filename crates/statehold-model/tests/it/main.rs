//! t
use statehold_model::{Configuration, Size, Rule};
#[test]
fn holds() {
    let only = std::env::var("ONLY").ok();
    let size = if std::env::var("LARGE").is_ok() { Size::Large } else { Size::Small };
    for c in Configuration::all(size) {
        let n = c.name;
        if only.as_ref().is_some_and(|o| o != n) { continue; }
        let o = c.check(2);
        println!("{n}: {} worlds depth {} {:?} unseen {:?}", o.worlds, o.depth, o.took, o.unseen);
        for (b, p) in o.broken { println!("BROKEN {b}\n{p}"); }
    }
}
#[test]
fn flaws() {
    for r in Rule::ALL {
    for c in Configuration::all(Size::Small) {
        let n = c.name;
        let o = c.without(r).check(2);
        if o.broken.is_empty() { continue; }
        println!("{r:?} {n}: {} worlds depth {} {:?} {:?}", o.worlds, o.depth, o.took, o.broken.iter().map(|b| b.0).collect::<Vec<_>>());
    }}
}
