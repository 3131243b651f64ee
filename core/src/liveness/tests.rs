//! Tests of the liveness.
