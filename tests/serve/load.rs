//! The server under load, for as long as KAKUSAN_LOAD_SECONDS says: not part of the usual tests.
//!
//! cargo test --workspace --test serve -- --ignored --nocapture load

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kakusan::candle::Device;
use kakusan::models::{BasicUNetConfig, ModelConfig, Weights};
use kakusan::pipeline::DDPMPipeline;
use kakusan::rng::Generator;
use kakusan::scheduler::LinearMixScheduler;
use serde_json::json;

use crate::Serving;
use crate::command::Workplace;

const CLIENTS: u64 = 20;
const REQUESTS: usize = 200;
/// Of each request.
const IMAGES: u64 = 4;
const STEPS: u64 = 40;

#[test]
#[expect(clippy::print_stdout, reason = "it measures")]
#[ignore = "it takes minutes: KAKUSAN_LOAD_SECONDS of them, 60 unless it is set"]
fn load() {
    let place = Workplace::new();
    let config = std::sync::Arc::new(BasicUNetConfig::default());
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb)).unwrap();
    let pipeline = DDPMPipeline::new(config, weights, std::sync::Arc::new(LinearMixScheduler::default())).unwrap();
    pipeline.save_pretrained(&place.path("runs/digits")).unwrap();
    let seconds = std::env::var("KAKUSAN_LOAD_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);

    // seconds of a processor: what other programs do at the same time changes them little
    let cpu = |stat: &str, fields: [usize; 2]| -> f64 {
        let text = fs::read_to_string(stat).unwrap_or_default();
        let fields =
            fields.map(|field| text.split(' ').nth(field).and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or(0.0));
        (fields[0] + fields[1]) / 100.0
    };
    let of_children = || cpu("/proc/self/stat", [15, 16]);

    // the command, at the largest batch of the server
    let sample = |images: u64| {
        let seeds = format!("0..{}", images - 1);
        let steps = (10 * STEPS).to_string();
        let began = Instant::now();
        place.run(&["sample", "--model", "runs/digits", "--steps", &steps, "--seeds", &seeds]).expect(0);
        began.elapsed().as_secs_f64()
    };
    let speed = || 10.0 * 64.0 / sample(64); // images of so many steps in a second
    let (before, idle) = (speed(), of_children());
    sample(64);
    let cpu_of_command = (of_children() - idle) / (10.0 * 64.0);

    let serving = Serving::start(&place, &["--port", "0"]);
    let (client, id) = (serving.client, serving.child.id());
    let memory = |name: &str| -> u64 {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        line.trim().split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    let (drawn, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let began = Instant::now();
    let (until, mut sizes) = (Duration::from_secs(seconds), vec![]);
    thread::scope(|scope| {
        for of in 0..CLIENTS {
            let (drawn, refused) = (&drawn, &refused);
            scope.spawn(move || {
                let mut seed = of * 1_000_000;
                while began.elapsed() < until || drawn.load(Ordering::Relaxed) < REQUESTS {
                    let body =
                        json!({"model": "digits", "seed": seed, "batch_size": IMAGES, "num_inference_steps": STEPS});
                    let answer = client.post("/api/images", &body);
                    match answer.status {
                        200 => drawn.fetch_add(1, Ordering::Relaxed),
                        429 | 503 => {
                            assert!(!answer.reason().is_empty() && answer.has("retry-after: "));
                            thread::sleep(Duration::from_millis(100));
                            refused.fetch_add(1, Ordering::Relaxed)
                        }
                        other => panic!("{other}: {answer:?}"),
                    };
                    seed += IMAGES;
                }
            });
        }
        while began.elapsed() < until {
            thread::sleep(Duration::from_secs(1));
            sizes.push(memory("VmRSS:"));
        }
    });
    let took = began.elapsed().as_secs_f64();
    let (drawn, refused) = (drawn.into_inner(), refused.into_inner());
    let cpu_of_server = cpu(&format!("/proc/{id}/stat"), [13, 14]) / (drawn as u64 * IMAGES) as f64;
    let (peak, of_server) = (memory("VmHWM:"), (drawn as u64 * IMAGES) as f64 / took);
    assert_eq!(serving.terminate(), Some(0));
    let of_command = (before + speed()) / 2.0;
    println!(
        "{drawn} requests drawn and {refused} refused in {took:.0} s; {of_server:.1} images/s, the command \
         {of_command:.1} ({:.2}); {:.1} ms of a processor for an image, the command {:.1}; memory after each tenth \
         {:?} MiB, at most {peak} MiB",
        of_server / of_command,
        1000.0 * cpu_of_server,
        1000.0 * cpu_of_command,
        sizes.chunks(sizes.len().div_ceil(10).max(1)).filter_map(<[u64]>::last).collect::<Vec<_>>()
    );
    assert!(drawn >= REQUESTS && of_server > 0.9 * of_command);
}
