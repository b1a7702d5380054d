//! A stored cut that can be read can be written, and is then the same cut.
#![no_main]

use headwater_lake::cut::Cut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(cut) = Cut::from_bytes(data) else { return };
    let again = Cut::from_bytes(&cut.to_bytes()).expect("what a cut writes is a cut");
    assert_eq!(again, cut);
});
