//! Several ranks, here threads, train to the bytes of one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Tensor};
use kakusan_data::{ImageSet, ReadImages};
use kakusan_distributed::{Error as GroupError, Group, Threads};
use kakusan_ops::AllReduce;
use kakusan_pipeline::{
    DeviceChoice, Error, Event, Existing, Outcome, Registry, Result, RunConfig, Step, Trainer, Training,
};
use kakusan_rng::Generator;

/// Batches of 20, 20 and 10 images: three parts, three, and two. Everything that draws random numbers, and everything
/// that keeps a state.
const TEXT: &str = r#"
[model]
_class_name = "UNet2DModel"
sample_size = 8
in_channels = 1
out_channels = 1
block_out_channels = [4, 4]
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
layers_per_block = 1
norm_num_groups = 2
attention_head_dim = 4
num_class_embeds = 4
dropout = 0.1
[scheduler]
_class_name = "DDPMScheduler"
[train]
epochs = 2
batch_size = 20
gradient_accumulation_steps = 2
class_dropout = 0.2
use_ema = true
max_grad_norm = 0.5
optimizer = "adamw"
checkpoint_every = 1
"#;
const COUNT: usize = 50;

fn config(set: &[&str]) -> RunConfig {
    let set: Vec<String> = set.iter().map(|&text| text.to_owned()).collect();
    RunConfig::parse(TEXT, "test", &set, &Registry::default()).unwrap()
}

fn images() -> Arc<ImageSet> {
    let pixels = Generator::new(1).rand(COUNT * 64).into_iter().map(|x| (x * 255.0) as u8).collect();
    let labels = (0..COUNT as u32).map(|i| i % 3).collect();
    let names = ["a", "b", "c"].map(str::to_owned).to_vec();
    Arc::new(ImageSet::new([1, 8, 8], pixels, labels, names).unwrap().with_random_flip(true))
}

/// Runs `work` as each member of a group of threads.
fn as_ranks<R: Send>(size: usize, work: impl Fn(Threads) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            Threads::group(size).into_iter().map(|member| scope.spawn(move || work(member))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// The steps of a whole training, and the weights and averages at its end, in bits.
fn trained(mut trainer: Trainer) -> (Vec<Step>, Vec<u32>) {
    let steps = std::iter::from_fn(|| {
        trainer.meet(false).unwrap();
        trainer.step().unwrap()
    });
    let steps = steps.collect();
    let mut bits = vec![];
    for weights in [trainer.weights(), &trainer.sampling_weights().unwrap()] {
        for (_, var) in weights.iter() {
            bits.extend(var.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits));
        }
    }
    (steps, bits)
}

#[test]
fn any_number_of_ranks_trains_to_the_same_bits() {
    for set in [&[][..], &["train.batch_size=33", "train.loss=\"huber\"", "train.snr_gamma=5.0"]] {
        let alone = trained(Trainer::new(&config(set), images(), &Device::Cpu).unwrap());
        assert_eq!(alone.0.len(), if set.is_empty() { 4 } else { 2 });
        for size in [1, 2, 3, 5] {
            let ranks = as_ranks(size, |member| {
                let trainer = Trainer::new(&config(set), images(), &Device::Cpu).unwrap();
                trained(trainer.with_group(Arc::new(member)))
            });
            for (rank, (steps, bits)) in ranks.iter().enumerate() {
                assert_eq!(*steps, alone.0, "rank {rank} of {size}");
                assert!(*bits == alone.1, "the weights of rank {rank} of {size} differ");
            }
        }
    }
}

/// A library that adds the numbers of threads in the order of their ranks.
#[derive(Debug)]
struct InOrder(Threads);

impl AllReduce for InOrder {
    fn name(&self) -> &'static str {
        "in order"
    }

    fn sum(&self, numbers: &Tensor) -> candle_core::Result<()> {
        let own: Vec<u8> = numbers.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect();
        let all = self.0.all_gather(&own).map_err(candle_core::Error::wrap)?;
        numbers.inplace_op1(&Replace(all))
    }
}

/// Replaces a tensor's numbers by the sum of the messages'.
struct Replace(Vec<Vec<u8>>);

impl InplaceOp1 for Replace {
    fn name(&self) -> &'static str {
        "replace"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        assert!(layout.is_contiguous() && layout.start_offset() == 0);
        let CpuStorage::F32(numbers) = storage else { panic!("gradients are f32") };
        numbers.fill(0.0);
        for message in &self.0 {
            assert_eq!(message.len(), 4 * numbers.len(), "all ranks add as many numbers");
            for (number, bytes) in numbers.iter_mut().zip(message.as_chunks().0) {
                *number += f32::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }
}

#[test]
fn a_library_adds_to_the_same_weights_on_all_ranks_and_nearly_those_of_one() {
    let set = ["train.optimizer=\"sgd\"", "train.max_grad_norm=1.0"]; // Adam magnifies what is nearly zero
    let (steps, bits) = trained(Trainer::new(&config(&set), images(), &Device::Cpu).unwrap());
    for size in [2, 3, 5] {
        let libraries = Threads::group(size);
        let (members, config) = (Mutex::new(libraries.into_iter().map(Some).collect::<Vec<_>>()), config(&set));
        let ranks = as_ranks(size, |member| {
            let library = InOrder(members.lock().unwrap()[member.rank()].take().unwrap());
            let trainer = Trainer::new(&config, images(), &Device::Cpu).unwrap();
            let trainer = trainer.with_group(Arc::new(member)).with_all_reduce(Arc::new(library));
            assert_eq!(trainer.all_reduce().unwrap().name(), "in order");
            trained(trainer)
        });
        assert!(ranks.iter().all(|rank| *rank == ranks[0]), "{size} ranks differ");
        let (own_steps, own_bits) = &ranks[0];
        for (own, one) in own_steps.iter().zip(&steps) {
            assert!((own.loss - one.loss).abs() < 1e-6 * one.loss, "{} of {size} ranks, {}", own.loss, one.loss);
            assert!((own.grad_norm - one.grad_norm).abs() < 1e-5 * one.grad_norm);
        }
        let far = |(a, b): (&u32, &u32)| (f32::from_bits(*a) - f32::from_bits(*b)).abs();
        let farthest = own_bits.iter().zip(&bits).map(far).fold(0.0, f32::max);
        assert!(own_bits.len() == bits.len() && farthest < 1e-6, "{farthest} with {size} ranks");
    }
}

/// Images that say which of them were read.
struct Watched {
    read: Arc<Mutex<BTreeSet<usize>>>,
}

impl ReadImages for Watched {
    fn len(&self) -> usize {
        COUNT
    }

    fn shape(&self) -> [usize; 3] {
        [1, 8, 8]
    }

    fn read(&self, i: usize, out: &mut [f32]) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.read.lock().unwrap().insert(i);
        out.fill(i as f32 / COUNT as f32);
        Ok(())
    }

    fn name(&self, i: usize) -> String {
        format!("record {i}")
    }
}

#[test]
fn each_rank_reads_only_its_share() {
    let config = config(&["train.epochs=1", "model.num_class_embeds=2"]);
    let read = as_ranks(3, |member| {
        let read = Arc::<Mutex<BTreeSet<usize>>>::default();
        let set = ImageSet::from_reader(Watched { read: read.clone() }).unwrap();
        let trainer = Trainer::new(&config, Arc::new(set), &Device::Cpu).unwrap();
        read.lock().unwrap().clear();
        trained(trainer.with_group(Arc::new(member)));
        Arc::try_unwrap(read).map_or_else(|read| read.lock().unwrap().clone(), |read| read.into_inner().unwrap())
    });
    // of 20 images 8, 8 and 4; of the last ten 0, 8 and 2
    assert_eq!(read.iter().map(BTreeSet::len).collect::<Vec<_>>(), [16, 24, 10]);
    assert_eq!(read.iter().flatten().collect::<BTreeSet<_>>().len(), COUNT);
}

fn training<'a>(out: &Path, registry: &'a Registry, set: &[&str]) -> Training<'a> {
    Training::new(config(set), out, registry).device(DeviceChoice::Cpu).images(images(), "memory")
}

/// The files of a run and their contents, without times.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                open.push(path);
            } else if name == "metrics.jsonl" {
                let text = std::fs::read_to_string(&path).unwrap();
                let lines = text.lines().map(|line| line.split_once(",\"seconds\"").unwrap().0);
                files.insert(name, lines.collect::<Vec<_>>().join("\n").into_bytes());
            } else {
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn the_run_folder_is_that_of_one_process_and_resumes_on_another_number_of_ranks() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::default());
    let alone = dir.path().join("alone");
    assert_eq!(training(&alone, &registry, &[]).run(&mut |_| Ok(())).unwrap(), Outcome::Finished);
    let expected = files(&alone);
    assert!(
        expected.contains_key("model_index.json") && expected.contains_key("checkpoints/checkpoint-4/progress.json")
    );

    let out = dir.path().join("ranks");
    let events = Mutex::new(vec![]);
    let resume = Existing::Resume { allow_changes: false, checkpoint: None };
    // three ranks, of which one is asked to stop after two steps; then two; then one
    for (size, existing, steps) in [(3, Existing::Refuse, 2), (2, resume, 3), (1, resume, 4)] {
        let outcomes = as_ranks(size, |member| {
            let (rank, stop) = (member.rank(), AtomicBool::new(false));
            let training = training(&out, &registry, &[]).existing(existing).stop(&stop).group(Arc::new(member));
            training.run(&mut |event| {
                events.lock().unwrap().push(rank);
                if let Event::Step { record, .. } = event {
                    stop.store(record.step == steps && steps < 4, Ordering::Relaxed);
                    assert_eq!(record.waited.is_some(), size > 1);
                }
                if let Event::Ranks(times) = event {
                    assert!(size > 1 && times.ranks.len() == size && (0.0..=1.0).contains(&times.waiting()));
                }
                Ok(())
            })
        });
        let expected = if steps < 4 { Outcome::Interrupted } else { Outcome::Finished };
        assert!(outcomes.into_iter().all(|outcome| outcome.unwrap() == expected));
    }
    assert!(events.into_inner().unwrap().iter().all(|&rank| rank == 0));
    assert!(files(&out) == expected, "{:?}", files(&out).keys());
}

#[test]
fn an_error_of_one_rank_ends_all_and_is_named() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::default());
    let ends =
        |name: &str, of_rank: &(dyn Fn(usize) -> Vec<&'static str> + Sync), fails: bool| -> Vec<Result<Outcome>> {
            let out = dir.path().join(name);
            as_ranks(3, |member| {
                let rank = member.rank();
                training(&out, &registry, &of_rank(rank)).group(Arc::new(member)).run(&mut |event| match event {
                    Event::Checkpoint { .. } if fails => Err(Error::Observer("the disk is full".into())),
                    _ => Ok(()),
                })
            })
        };
    // rank 0 cannot write
    let failed = ends("full", &|_| vec![], true);
    assert_eq!(failed[0].as_ref().unwrap_err().to_string(), "the disk is full");
    for error in &failed[1..] {
        assert_eq!(error.as_ref().unwrap_err().to_string(), "rank 0 failed: the disk is full");
    }
    // its checkpoint is there, and is resumed from
    let resume = Existing::Resume { allow_changes: false, checkpoint: None };
    let training = training(&dir.path().join("full"), &registry, &[]).existing(resume);
    assert_eq!(training.run(&mut |_| Ok(())).unwrap(), Outcome::Finished);

    // other settings: refused with their names, before a folder exists
    let other = |rank: usize| if rank == 2 { vec!["train.seed=7", "train.class_dropout=0.3"] } else { vec![] };
    for error in ends("other", &other, false) {
        let error = error.unwrap_err();
        assert!(error.is_usage() && matches!(error, Error::Group(GroupError::Differ(_))), "{error}");
        let said = error.to_string();
        assert!(said.contains("train.seed is `7` on rank 2, but `0` on rank 0"), "{said}");
        assert!(said.contains("train.class_dropout is `0.3` on rank 2, but `0.2` on rank 0"), "{said}");
    }
    assert!(!dir.path().join("other").exists());

    // all diverge at the same step
    let diverging = |_| vec!["train.optimizer=\"sgd\"", "train.learning_rate=1e30", "train.max_grad_norm=1e30"];
    for (rank, error) in ends("diverged", &diverging, false).into_iter().enumerate() {
        let error = error.unwrap_err();
        let is_own = matches!(error, Error::Diverged { .. } | Error::Unsound { .. });
        assert!(is_own || rank > 0 && matches!(error, Error::Group(GroupError::Failed { .. })), "{error}");
    }
}

/// A set of which one image cannot be read.
struct Torn;

impl ReadImages for Torn {
    fn len(&self) -> usize {
        200
    }

    fn shape(&self) -> [usize; 3] {
        [1, 8, 8]
    }

    fn read(&self, i: usize, out: &mut [f32]) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        out.fill(0.5);
        if i == 77 { Err("it is torn".into()) } else { Ok(()) }
    }

    fn name(&self, i: usize) -> String {
        format!("record {i}")
    }
}

#[test]
fn a_bad_image_that_only_one_rank_reads_ends_all() {
    let (dir, registry) = (tempfile::tempdir().unwrap(), Registry::default());
    let ends = as_ranks(3, |member| {
        let config = config(&["model.num_class_embeds=2", "train.batch_size=24", "train.epochs=1"]);
        let training = Training::new(config, dir.path().join("run"), &registry).device(DeviceChoice::Cpu);
        let images = ImageSet::from_reader(Torn).unwrap();
        training.images(Arc::new(images), "a book").group(Arc::new(member)).run(&mut |_| Ok(()))
    });
    let said: Vec<String> = ends.into_iter().map(|end| end.unwrap_err().to_string()).collect();
    let own = said.iter().position(|text| text.starts_with("record 77: it is torn"));
    let own = own.unwrap_or_else(|| panic!("{said:?}"));
    let others = said.iter().enumerate().filter(|(rank, _)| *rank != own);
    assert!(others.into_iter().all(|(_, text)| *text == format!("rank {own} failed: {}", said[own])), "{said:?}");
}
