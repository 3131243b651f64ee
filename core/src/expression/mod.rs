//! Conditions, updates and projections in compiled form.
