//! The store against a model, through crashes.
