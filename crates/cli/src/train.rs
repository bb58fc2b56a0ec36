use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use kakusan::data::{DataConfig, DatasetName, SourceKind};
use kakusan::distributed::{Error as GroupError, Group};
use kakusan::hub::{Hub, HubConfig};
use kakusan::pipeline::{
    AllReduceMethod, DeviceChoice, Error, Event, Existing, Outcome, Registry, Result, RunConfig, Training,
    leader_first, run_config,
};
use kakusan::report::{Report, quote_path};

use crate::eval::EvalDuringTraining;
use crate::failure;
use crate::machine::MachineArgs;
use crate::number::whole;
use crate::program::program;
use crate::progress::Progress;
use crate::ranks;
use crate::terminal::{say, warn};

const SETTINGS: &str = "\
Settings of [train], in the configuration or by --set train.KEY=VALUE (all are described in docs/book):
  optimizer=adamw weight_decay=0.01              adam, adamw, sgd or muon; betas, eps, momentum
  lr_scheduler=cosine lr_warmup_steps=500        constant, linear, polynomial, cosine_with_restarts, piecewise_constant, ...
  gradient_accumulation_steps=4 max_grad_norm=1.0
  loss=huber huber_delta=0.1                     mse, l1 or huber; snr_gamma=5.0 weights it by the signal-to-noise ratio
  weighting_scheme=logit_normal                  flows: none, sigma_sqrt, mode, cosmap; EDM: p_mean=-1.2 p_std=1.2
  use_ema=true                                   sample with averaged weights, or ema_sigma_rel=[0.05,0.1] (`average`)
  checkpoint_every=500 keep_checkpoints=3        in addition to one per epoch; keep_best=true
  sample_every=1 tensorboard=true                images/epoch-001.png; logs/ for `tensorboard --logdir runs`

Fine-tuning begins with the weights of a pretrained model instead of random ones:
  --set model.from=runs/184-v                    a run, a pipeline saved by Python, or owner/name[@revision] on the Hub;
                                                 its configuration counts where [model] and [scheduler] say nothing else
  --set 'train.freeze=[\"down_blocks\"]'           parts that stay as they are, by the names that `info` lists
  --set model.num_class_embeds=12                more classes; in_channels and out_channels may change, too

Several processes train one model to the same bytes as one: started by mpirun (if built with the feature mpi), by Slurm,
or with the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT. docs/book has a page on it, \"More than one machine\".

A run that was stopped or killed resumes with --resume to the same bytes as an uninterrupted one.";

/// The largest number that the run's configuration can hold: it is TOML.
const MOST: u64 = i64::MAX as u64;

#[derive(Args)]
#[command(after_help = SETTINGS)]
pub(crate) struct TrainArgs {
    /// The configuration file, e.g. configs/184.toml
    #[arg(long, value_name = "FILE", required_unless_present = "resume")]
    config: Option<PathBuf>,
    /// Override one value of the configuration, e.g. --set 'data.classes=[3,5]' (can be repeated)
    #[arg(long, value_name = "TABLE.KEY=VALUE")]
    set: Vec<String>,
    /// The folder of the run [default: runs/ and the configuration's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Train on this folder only. data.name says what it holds: pictures (also a zip, tar or tar.gz), parquet files, or
    /// the files of MNIST or CIFAR-10
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The seed of all random numbers, as in torch.manual_seed
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(0..=MOST))]
    seed: Option<u64>,
    /// Stop after N optimiser steps
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = whole(1..=MOST))]
    max_steps: Option<u64>,
    /// Recompute activations in the backward pass (less memory, more time)
    #[arg(long)]
    grad_checkpoint: bool,
    /// cpu, cuda, cuda:N, or auto; each of several processes on a machine takes a card, from card N on
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    /// How several processes add their gradients: tree (the same bits for any number of them), nccl (fast, from card to
    /// card; the last bits depend on their number), or auto: nccl on cards if this build has it, otherwise tree
    #[arg(long, value_name = "WAY", default_value = "auto")]
    all_reduce: AllReduceMethod,
    #[command(flatten)]
    machine: MachineArgs,
    /// Resume an interrupted run from its newest checkpoint; the result is the same, byte for byte, as without the
    /// interruption [default: the folder that --out or --config names]
    #[arg(long, value_name = "DIR", num_args = 0..=1, conflicts_with = "overwrite")]
    resume: Option<Option<PathBuf>>,
    /// Accept settings or images that differ from the run's: a larger set, another batch_size, a lower learning_rate
    /// after the run diverged
    #[arg(long, requires = "resume")]
    allow_changes: bool,
    /// Resume from the checkpoint of step N instead of the newest; newer ones are renamed to later-checkpoint-…
    #[arg(long, value_name = "N", requires = "resume", allow_hyphen_values = true, value_parser = whole(0..=usize::MAX))]
    checkpoint: Option<usize>,
    /// Delete the run that is already in the folder
    #[arg(long)]
    overwrite: bool,
}

pub(crate) fn train(args: TrainArgs) -> Result<ExitCode> {
    let launch = ranks::launch()?;
    args.machine.apply_to_one_of(launch.as_ref().map_or(1, |launch| launch.local_size))?;
    let local_rank = launch.as_ref().map_or(0, |launch| launch.local_rank);
    let group = ranks::join(launch)?;
    match ranks::check_same_program(&*group).and_then(|()| train_in(&group, local_rank, args)) {
        Err(error) if !group.leads() => Ok(ranks::end_quietly(&*group, &error)),
        Err(error) => {
            group.abort(0, &error.to_string());
            // before this leaves the group: the others wait for that, and the first of them to end by an error makes
            // mpirun end all
            Ok(failure::show(&error))
        }
        done => done,
    }
}

/// Trains as a member of the group. Rank 0 alone prints, and returns no error that it has shown.
fn train_in(group: &Arc<dyn Group>, local_rank: usize, args: TrainArgs) -> Result<ExitCode> {
    let registry = Registry::default();
    let mut overrides = args.set;
    overrides.extend(args.seed.map(|seed| format!("train.seed={seed}")));
    overrides.extend(args.grad_checkpoint.then(|| "train.gradient_checkpointing=true".to_owned()));
    overrides.extend(args.max_steps.map(|steps| format!("train.max_steps={steps}")));

    let named = match args.resume.clone().flatten().or(args.out) {
        Some(dir) => Some(dir),
        None => args.config.as_ref().and_then(|file| Some(PathBuf::from("runs").join(file.file_stem()?))),
    };
    let out = named.ok_or_else(|| Error::Unfit("name the run's folder: --resume DIR, or --out DIR".into()))?;
    let hub = if group.leads() { crate::progress::hub()? } else { Hub::new(HubConfig::from_env()?) };
    let mut config = leader_first(&**group, || match &args.config {
        Some(file) => RunConfig::load_with_hub(file, &overrides, &registry, &hub),
        None => run_config(&out, &overrides, &registry),
    })?;
    if let Some(dir) = args.data {
        // if the named folder cannot be used, the training fails: there is no fallback
        let data = config.data.get_or_insert_with(|| DataConfig::new(DatasetName::Folder));
        data.dir = Some(std::path::absolute(&dir).unwrap_or(dir)); // the run may be resumed elsewhere
        data.sources = vec![SourceKind::Dir];
    }
    if group.leads() {
        config.warnings().iter().for_each(|warning| warn(&format!("warning: {warning}")));
    }
    let existing = match (args.resume.is_some(), args.overwrite) {
        (true, _) => Existing::Resume { allow_changes: args.allow_changes, checkpoint: args.checkpoint },
        (_, true) => Existing::Overwrite,
        _ => Existing::Refuse,
    };

    let (stop, in_steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    stop_on_ctrl_c(stop.clone(), in_steps.clone(), group.leads());
    let program = program();
    let (learning_rate, batch_size) = (config.train.learning_rate, config.train.batch_size);
    let training = Training::new(config, &out, &registry).existing(existing).device(args.device).hub(&hub).stop(&stop);
    let training = training.group(group.clone()).local_rank(local_rank).all_reduce(args.all_reduce);
    if !group.leads() {
        in_steps.store(true, Ordering::Relaxed); // rank 0 decides when there is something to save
        return Ok(match training.run(&mut |_| Ok(()))? {
            Outcome::Finished => ExitCode::SUCCESS,
            Outcome::Interrupted => ExitCode::from(130),
        });
    }
    let (mut progress, mut report) = (Progress::default(), Report::new(&program));
    let mut evaluation = EvalDuringTraining::new(&hub, &stop);
    let (mut done, mut all) = (0, 0);
    let outcome = training.run(&mut |event| {
        match event {
            Event::Begin(run) => {
                (done, all) = (run.trainer.steps_done(), run.trainer.total_steps());
                in_steps.store(done < all, Ordering::Relaxed);
            }
            Event::Step { record, .. } => done = record.step,
            Event::Checkpoint { .. } => in_steps.store(done < all, Ordering::Relaxed), // after it, all is saved
            _ => {}
        }
        progress.show(event);
        report.observe(event, &mut |notice| progress.show_notice(notice))?;
        evaluation.observe(event)
    });
    progress.clear();
    let resume = format!("{program} train --resume {}", quote_path(&out));
    match outcome {
        Ok(Outcome::Finished) => {
            let dir = out.display();
            say(&format!("The pictures are in {dir}/images, the report is {dir}/report.html."));
            say(&format!("Draw more with: {}", report.sample_command()));
            Ok(ExitCode::SUCCESS)
        }
        Ok(Outcome::Interrupted) => {
            say(&format!("Stopped and saved. Resume with: {resume}"));
            Ok(ExitCode::from(130))
        }
        // the disk is full, or the folder is no longer accessible
        Err(e @ (Error::Io { .. } | Error::Weights(kakusan::weights::Error::Io { .. })))
            if out.join("config.toml").is_file() =>
        {
            let code = failure::show(&e);
            warn(&format!("Everything that was saved before is intact. Once this is fixed, resume with: {resume}"));
            Ok(code)
        }
        Err(e @ Error::Group(GroupError::Failed { .. } | GroupError::Lost { .. }))
            if out.join("config.toml").is_file() =>
        {
            let code = failure::show(&e);
            warn(&format!("Everything that was saved is intact. Resume with {resume}, by any number of processes."));
            Ok(code)
        }
        Err(e @ Error::OutOfMemory { last_checkpoint: Some(_), .. }) => {
            let code = failure::show(&e);
            let smaller = format!("--allow-changes --set train.batch_size={}", (batch_size / 2).max(1));
            warn(&format!("Everything that was saved is intact. Resume with, for example: {resume} {smaller}"));
            Ok(code)
        }
        Err(
            e @ (Error::Diverged { last_checkpoint: Some(_), .. } | Error::Unsound { last_checkpoint: Some(_), .. }),
        ) => {
            let code = failure::show(&e);
            let lower = format!("--allow-changes --set train.learning_rate={:.1e}", learning_rate / 10.0);
            warn(&format!("Resume with, for example: {resume} {lower}"));
            Ok(code)
        }
        Err(e) => Err(e),
    }
}

/// During training steps, the first Ctrl-C (or SIGTERM) asks the training to save and stop. The second one, or one at a
/// time when there is nothing to save, ends the process immediately.
fn stop_on_ctrl_c(stop: Arc<AtomicBool>, in_steps: Arc<AtomicBool>, leads: bool) {
    let handler = move || {
        if stop.swap(true, Ordering::Relaxed) || !in_steps.load(Ordering::Relaxed) {
            std::process::exit(130);
        }
        if leads {
            warn("\nStopping after this step; press Ctrl-C again to quit without saving.");
        }
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        warn(&format!("warning: Ctrl-C will not save: {e}"));
    }
}
