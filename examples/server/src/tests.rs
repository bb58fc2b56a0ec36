use std::net::SocketAddr;
use std::sync::Arc;

use kakusan::models::{BasicUNetConfig, ModelConfig, Weights};
use kakusan::scheduler::LinearMixScheduler;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::*;

/// One test at a time: one of them measures the memory of the process.
static ALONE: Mutex<()> = Mutex::const_new(());

fn pipeline() -> DDPMPipeline {
    let config = Arc::new(BasicUNetConfig::default());
    let (weights, _) = Weights::initialise(&Device::Cpu, &mut Generator::new(0), |vb| config.build(vb)).unwrap();
    DDPMPipeline::new(config, weights, Arc::new(LinearMixScheduler::default())).unwrap()
}

async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, server(pipeline())).await });
    address
}

async fn ask(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut answer = String::new();
    ask(address, path).await.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_picture_and_its_progress_or_a_reason() {
    let _alone = ALONE.lock().await;
    let address = start().await;
    let answer = get(address, "/draw?seed=7&steps=3").await;
    let (reports, _news) = watch::channel(Report::Step(0, 3));
    let png = draw(&pipeline(), &Job { seed: 7, steps: 3, class: None }, &reports).unwrap();
    assert!(answer.contains(&format!("event: image\ndata: {}\n", BASE64_STANDARD.encode(png))), "{answer}");
    assert!(get(address, "/draw?seed=7&steps=300").await.contains("event: progress\ndata: "));

    assert!(get(address, "/").await.contains("new EventSource(\"/draw?\""));
    for (path, words) in [
        ("/draw?seed=7&steps=1001", "expected 1 to 1000"),
        ("/draw?seed=7", "missing field `steps`"),
        ("/draw?seed=7&steps=3&class=1", "event: failed\ndata: this model has no classes"),
    ] {
        let answer = get(address, path).await;
        assert!(answer.contains(words), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_worker_and_its_place_in_the_queue() {
    let _alone = ALONE.lock().await;
    let job = Job { seed: 7, steps: 20, class: None };
    let [whole, stopped] = [true, false].map(|stays| {
        let (reports, news) = watch::channel(Report::Step(0, job.steps));
        let _news = stays.then_some(news);
        draw(&pipeline(), &job, &reports).unwrap()
    });
    assert_ne!(whole, stopped, "the sampling went on to its end");

    let address = start().await;
    let mut clients = vec![];
    for _ in 0..40 {
        clients.push(ask(address, "/draw?seed=7&steps=1000").await);
    }
    let mut last = String::new();
    clients.pop().unwrap().read_to_string(&mut last).await.unwrap();
    assert!(last.starts_with("HTTP/1.1 503") && last.contains("try again later"), "{last}");
    drop(clients);
    while !get(address, "/draw?seed=7&steps=1").await.contains("event: image") {
        tokio::task::yield_now().await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_thousand_calls_leave_no_memory_behind() {
    let _alone = ALONE.lock().await;
    let address = start().await;
    let mut kibibytes = vec![];
    for call in 0..=1200 {
        if call % 200 == 0 {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            kibibytes.push(resident.trim().trim_end_matches(" kB").parse::<i64>().unwrap());
        }
        match call % 10 {
            0 => drop(ask(address, "/draw?seed=7&steps=1000").await.read(&mut [0; 64]).await.unwrap()), // and leaves
            _ => assert!(get(address, &format!("/draw?seed={call}&steps=1")).await.contains("event: image")),
        }
    }
    println!("{kibibytes:?}");
    // 4 KiB for each call, the size of a picture in f32, would be 4,000 KiB
    assert!(kibibytes[6] - kibibytes[1] < 1024, "resident after each 200 calls: {kibibytes:?} KiB");
}
