#![no_main]
forebay_fuzz::fuzz!(item);
