#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stagehook::fuzz::run("replies", data));
