//! Shows a training: its pictures, the loss plot, `report.html`, the model card, TensorBoard's log, and a page that
//! compares several runs.
//!
//! A [`Report`] observes a [`Training`](kakusan_pipeline::Training), which does not depend on it. [`pictures`] draws
//! images as PNG for any other purpose.
//!
//! ```
//! use kakusan_pipeline::{Registry, RunConfig, Training};
//! use kakusan_report::Report;
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let runs = dir.path();
//! let text = r#"
//!     data = { name = "mnist", classes = [1], sources = ["drawn"], drawn_per_class = 8 }
//!     model = { _class_name = "BasicUNet" }
//!     scheduler = { _class_name = "LinearMixScheduler" }
//!     train = { epochs = 1, batch_size = 4 }
//!     sample = { steps = 2, batch_size = 8, trajectory_steps = 2 }
//! "#;
//! let registry = Registry::default();
//! let config = RunConfig::parse(text, "example", &[], &registry)?;
//! let mut report = Report::new("kakusan");
//! let training = Training::new(config, runs.join("ones"), &registry);
//! training.run(&mut |event| report.observe(event, &mut |notice| println!("{notice:?}")))?;
//! assert!(runs.join("ones/report.html").is_file() && runs.join("ones/images/samples.png").is_file());
//! # Ok::<(), kakusan_pipeline::Error>(())
//! ```
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod compare;
mod evaluation;
mod figures;
mod levels;
mod model_card;
mod page;
pub mod pictures;
mod previews;
mod publication;
mod report;
mod shell;
mod tensorboard;

pub use compare::compare;
pub use evaluation::show_evaluation;
pub use page::thousands;
pub use publication::Publication;
pub use report::{Notice, Report};
pub use shell::{class_options, quote, quote_path};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
