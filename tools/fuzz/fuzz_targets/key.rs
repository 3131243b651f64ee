#![no_main]
forebay_fuzz::fuzz!(key);
