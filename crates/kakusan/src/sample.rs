use std::path::{Path, PathBuf};
use std::process::ExitCode;

use candle_core::{DType, Device, Tensor};
use clap::Args;
use kakusan::hub::{Hub, HubConfig};
use kakusan::pipeline::{DDPMPipeline, DeviceChoice, Error, Result, pictures, write_whole};
use kakusan::rng::Generator;
use kakusan::scheduler::Registry;

use crate::machine::MachineArgs;
use crate::terminal::say;

#[derive(Args)]
pub(crate) struct SampleArgs {
    /// The folder of a run or a saved pipeline, or owner/name on the Hub
    #[arg(long, value_name = "DIR|owner/name")]
    model: String,
    /// Sampling steps
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    steps: u64,
    /// How many images
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
    /// Where all randomness begins, as in torch.manual_seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Sample with this scheduler instead of the saved one, built from the saved one's configuration
    #[arg(long, value_name = "NAME")]
    scheduler: Option<String>,
    /// The picture: a grid, dark ink on white
    #[arg(long, value_name = "FILE.png", default_value = "samples.png")]
    out: PathBuf,
    /// Save the images as a tensor too: `images`, f32 [n, c, h, w] in 0..1
    #[arg(long, value_name = "FILE.safetensors")]
    save_tensor: Option<PathBuf>,
    /// cpu, cuda, cuda:N, or auto
    #[arg(long, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(crate) fn sample(args: SampleArgs) -> Result<ExitCode> {
    args.machine.apply()?;
    for file in [Some(&args.out), args.save_tensor.as_ref()].into_iter().flatten() {
        check_parent(file)?; // before the work, not after it
    }
    let registry = Registry::default();
    let device = args.device.open()?;
    let mut pipeline = load(&args.model, &registry, &device)?;
    if let Some(name) = &args.scheduler {
        let scheduler = registry.build(name, &pipeline.scheduler().config())?;
        pipeline.set_scheduler(scheduler);
    }
    let (batch, steps) = (args.batch as usize, args.steps as usize);
    let mut rng = Generator::new(args.seed);
    let sample = pipeline.sample(batch, steps, &mut rng, |_| {})?;
    let images = pipeline.scheduler().pixel_range().to_unit(&sample)?.to_device(&Device::Cpu)?;

    let about = [
        ("Software", concat!("Kakusan ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("model", args.model.clone()),
        ("scheduler", pipeline.scheduler().class_name().to_owned()),
        ("steps", steps.to_string()),
        ("seed", args.seed.to_string()),
    ];
    write_whole(&args.out, &grid(&images, &about)?)?;
    say(&format!("{batch} images in {steps} steps: {}", args.out.display()));
    if let Some(file) = &args.save_tensor {
        let tensors = [("images".to_owned(), images.to_dtype(DType::F32)?.contiguous()?)];
        let bytes = safetensors::serialize(tensors, None).map_err(|e| Error::Unfit(e.to_string()))?;
        write_whole(file, &bytes)?;
        say(&format!("The tensor `images` {:?}: {}", images.dims(), file.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads a pipeline from a folder, or from the Hub where no such folder exists and the name is an owner/name.
pub(crate) fn load(model: &str, registry: &Registry, device: &Device) -> Result<DDPMPipeline> {
    let dir = Path::new(model);
    let is_id = model.split('/').count() == 2 && !model.starts_with(['.', '/', '~']);
    if dir.exists() || !is_id {
        return DDPMPipeline::from_pretrained(dir, registry, device);
    }
    let hub = Hub::new(HubConfig::from_env()?);
    DDPMPipeline::from_hub(model, "main", &hub, registry, device)
}

/// The images as a picture, eight to a row as in the tutorial, or in a square where they are many.
fn grid(images: &Tensor, about: &[(&str, String)]) -> Result<Vec<u8>> {
    let (n, channels, height, width) = images.dims4()?;
    let columns = if n <= 64 { n.min(8) } else { (n as f64).sqrt().ceil() as usize };
    let pixels = images.flatten_all()?.to_vec1::<f32>()?;
    let images = pictures::Images { pixels: &pixels, channels, height, width };
    Ok(pictures::grid(images, columns, 3, about)?)
}

fn check_parent(file: &Path) -> Result<()> {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            Err(Error::Unfit(format!("cannot write {}: there is no folder {}", file.display(), parent.display())))
        }
        _ => Ok(()),
    }
}
