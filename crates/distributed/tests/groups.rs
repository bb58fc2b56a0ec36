//! The same of every group: threads, and TCP on the loopback device.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kakusan_distributed::{Error, Group, Rendezvous, Tcp, Threads, agree};

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn at(port: u16, rank: usize, size: usize, seconds: u64) -> Rendezvous {
    Rendezvous { rank, size, address: "127.0.0.1".to_owned(), port, timeout: Duration::from_secs(seconds) }
}

/// The members of a group over TCP, by rank.
fn tcp(size: usize) -> Vec<Tcp> {
    let port = free_port();
    let join = |rank| thread::spawn(move || Tcp::join(&at(port, rank, size, 60)).unwrap());
    let threads: Vec<_> = (0..size).rev().map(join).collect(); // rank 0 comes last
    threads.into_iter().rev().map(|thread| thread.join().unwrap()).collect()
}

/// Runs `work` as each member of each kind of group.
fn in_groups<R: Send>(size: usize, work: impl Fn(Arc<dyn Group>) -> R + Sync) -> Vec<Vec<R>> {
    let threads = Threads::group(size).into_iter().map(|member| Arc::new(member) as Arc<dyn Group>).collect();
    let tcp = tcp(size).into_iter().map(|member| Arc::new(member) as Arc<dyn Group>).collect();
    let groups: [Vec<Arc<dyn Group>>; 2] = [threads, tcp];
    let run = |members: Vec<Arc<dyn Group>>| {
        thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = members.into_iter().map(|member| scope.spawn(move || work(member))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    groups.map(run).into()
}

#[test]
fn everything_arrives_in_order() {
    for size in [1, 2, 3, 5] {
        in_groups(size, |group| {
            let me = group.rank();
            assert_eq!(group.size(), size);
            for round in 0..20usize {
                // of all sizes, and larger than what the system buffers
                let length = |from: usize, to: usize| if round == 7 { 3_000_000 + from } else { from * to * round };
                let fill = |from: usize, to: usize| (from * 16 + to + round) as u8;
                let messages: Vec<Vec<u8>> = (0..size).map(|to| vec![fill(me, to); length(me, to)]).collect();
                let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
                for (from, message) in group.all_to_all(&messages).unwrap().iter().enumerate() {
                    assert!(message.len() == length(from, me) && message.iter().all(|&byte| byte == fill(from, me)));
                }
            }
            let all = group.all_gather(&[me as u8]).unwrap();
            assert!(all.iter().enumerate().all(|(rank, message)| message[..] == [rank as u8]));
            group.barrier().unwrap();
            assert!(matches!(group.all_to_all(&[]), Err(Error::Message { .. })));
        });
    }
}

#[test]
fn a_member_that_fails_is_named_by_all_others() {
    for answers in in_groups(3, |group| {
        if group.rank() == 1 {
            group.barrier().unwrap();
            assert!(group.abort(1, "the disk is full"));
            return None;
        }
        // who is slow learns of it in the first operation, while it waits for another member
        let first = group.barrier().and_then(|()| group.barrier()).unwrap_err();
        group.abort(group.rank(), "an echo of it"); // has no effect
        Some(first)
    }) {
        let expected = Error::Failed { rank: 1, reason: "the disk is full".to_owned() };
        assert_eq!(answers, [Some(expected.clone()), None, Some(expected)]);
    }
}

#[test]
fn a_member_that_is_gone_is_named_and_nobody_waits_for_a_slow_one() {
    for answers in in_groups(3, |group| {
        group.barrier().unwrap();
        let begin = Instant::now();
        match group.rank() {
            0 => Some((group.barrier().unwrap_err(), begin.elapsed())),
            1 => {
                thread::sleep(Duration::from_secs(2)); // it is slow, and learns of it later
                Some((group.barrier().unwrap_err(), Duration::ZERO))
            }
            _ => None,
        }
    }) {
        let [Some((first, time)), Some((second, _)), None] = &answers[..] else { panic!("{answers:?}") };
        assert!(matches!(first, Error::Lost { rank: 2, .. }), "{first}");
        assert!(*time < Duration::from_secs(2), "{time:?}");
        assert!(matches!(second, Error::Lost { rank: 2, .. }), "{second}");
    }
}

#[test]
fn differences_are_named_on_all_ranks() {
    for answers in in_groups(3, |group| {
        let mut facts = vec![("train.seed".to_owned(), "0".to_owned()), ("the program".to_owned(), "0.1.0".to_owned())];
        agree(&*group, &facts.clone().into_iter().collect()).unwrap();
        match group.rank() {
            1 => facts[0].1 = "7".to_owned(),
            2 => drop(facts.pop()),
            _ => {}
        }
        agree(&*group, &facts.into_iter().collect()).unwrap_err().to_string()
    }) {
        let expected = "the processes do not belong together: train.seed is `7` on rank 1, but `0` on rank 0; \
                        the program is not set on rank 2, but `0.1.0` on rank 0";
        assert_eq!(answers, [expected; 3]);
    }
}

#[test]
fn who_does_not_belong_to_the_group_is_refused_by_name() {
    // another number of members
    let port = free_port();
    let other = thread::spawn(move || Tcp::join(&at(port, 1, 3, 20)).unwrap_err());
    let (first, second) = (Tcp::join(&at(port, 0, 2, 20)).unwrap_err(), other.join().unwrap());
    assert_eq!(first.to_string(), "rank 1 was started as one of 3 processes, rank 0 as one of 2");
    assert_eq!(first, second);

    // the others do not come, or rank 0 is not there
    let said = Tcp::join(&at(free_port(), 0, 3, 0)).unwrap_err().to_string();
    assert!(said.contains("for the ranks 1, 2"), "{said}");
    let said = Tcp::join(&at(free_port(), 1, 2, 0)).unwrap_err().to_string();
    assert!(said.starts_with("rank 1 tried for 0 seconds to reach rank 0 at 127.0.0.1:"), "{said}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = Tcp::join(&at(taken.local_addr().unwrap().port(), 0, 2, 0)).unwrap_err().to_string();
    assert!(said.ends_with("the port is in use, choose another"), "{said}");
    assert!(Tcp::join(&at(1, 2, 2, 0)).unwrap_err().to_string().contains("no rank 2 in a group of 2"));

    // strangers are ignored, a second process of a rank is refused, and the group forms nevertheless
    let port = free_port();
    let leader = thread::spawn(move || Tcp::join(&at(port, 0, 3, 60)));
    let connect = || loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            return stream;
        }
        thread::sleep(Duration::from_millis(10));
    };
    connect().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    drop(connect());
    connect().write_all(&[1, 255, 255, 255, 255, 255, 255, 255, 255]).unwrap();
    let first = thread::spawn(move || Tcp::join(&at(port, 1, 3, 60)));
    thread::sleep(Duration::from_millis(300));
    let said = Tcp::join(&at(port, 1, 3, 60)).unwrap_err().to_string();
    assert!(said.starts_with("there is a rank 1 already at 127.0.0.1:"), "{said}");
    // another version of the protocol would end the group; here it comes after the group
    let last = Tcp::join(&at(port, 2, 3, 60)).unwrap();
    let (leader, first) = (leader.join().unwrap().unwrap(), first.join().unwrap().unwrap());
    thread::scope(|scope| {
        for member in [leader, first, last] {
            scope.spawn(move || member.barrier().unwrap());
        }
    });

    // another version of the protocol
    let port = free_port();
    let leader = thread::spawn(move || Tcp::join(&at(port, 0, 2, 60)).unwrap_err().to_string());
    let mut stream = loop {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            break stream;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let hello = [b"kakusan" as &[u8], &99u32.to_le_bytes(), &[0; 18]].concat();
    stream.write_all(&[&[1], &(hello.len() as u64).to_le_bytes()[..], &hello].concat()).unwrap();
    let said = leader.join().unwrap();
    assert!(said.starts_with("a process speaks version 99 of the protocol, rank 0 version 1"), "{said}");
    let mut answer = vec![];
    stream.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("version 99"));
}
