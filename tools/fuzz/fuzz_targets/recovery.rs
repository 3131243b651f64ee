#![no_main]
forebay_fuzz::fuzz!(recovery);
