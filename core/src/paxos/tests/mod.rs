//! Tests of the whole protocol: a seeded simulation with faults, models of the small cases, and the
//! mutation score of both.

mod damage;
mod leaving;
mod model;
mod mutation;
mod resends;
mod reservation;
mod scenarios;
mod sim;
mod watermark;
