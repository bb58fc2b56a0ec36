//! The server of `kakusan serve`: a page and a JSON API that draw from the models of a folder, and watch the trainings
//! of another while they run.
//!
//! [`Server::bind`] opens the port, and [`Server::run`] answers until its [`Stop`] is used. One thread draws: requests
//! wait for it in a queue of limited length, and those that agree in their settings are drawn in one batch, each image
//! from its own seed. Everything that a client can ask for has a limit ([`Limits`]).
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod attend;
mod body;
mod draw;
mod draw_routes;
mod draws;
mod events;
mod folders;
mod given;
mod guard;
mod listen;
mod metrics;
mod models;
mod page;
mod pictures;
mod plan;
mod refusal;
mod request;
mod routes;
mod run_routes;
mod runs;
mod server;
mod settings;
mod spelling;
mod worker;

pub use server::{Error, Server, Stop, openapi};
pub use settings::{Limits, Settings};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
