//! Keys and their order.
