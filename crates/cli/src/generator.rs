//! Whose random numbers a sampling draws.

use clap::ValueEnum;
use kakusan::candle::Device;
use kakusan::ops::describe_cuda;
use kakusan::pipeline::Result;
use kakusan::rng::{Card, CudaGenerator, Generator, Noise, PerImage};

/// Which of torch's generators draws the noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GeneratorKind {
    /// torch.Generator("cpu"), on every device
    Cpu,
    /// torch.Generator("cuda"), also on the CPU
    Cuda,
}

impl GeneratorKind {
    /// One generator for all images.
    pub(crate) fn seeded(self, seed: u64, device: &Device) -> Result<Box<dyn Noise>> {
        Ok(match self {
            Self::Cpu => Box::new(Generator::new(seed)),
            Self::Cuda => Box::new(CudaGenerator::on(card_of(device)?.unwrap_or_default(), seed)),
        })
    }

    /// One generator for each image.
    pub(crate) fn per_image(self, seeds: &[u64], device: &Device) -> Result<Box<dyn Noise>> {
        let seeds = seeds.iter().copied();
        Ok(match self {
            Self::Cpu => Box::new(PerImage::from_seeds(seeds)),
            Self::Cuda => {
                let card = card_of(device)?.unwrap_or_default();
                Box::new(PerImage::new(seeds.map(|seed| CudaGenerator::on(card, seed)).collect()))
            }
        })
    }

    /// Whether so many numbers at once are in an order that a card would decide, where there is none.
    pub(crate) fn guesses_the_card(self, numbers: usize, device: &Device) -> Result<bool> {
        Ok(self == Self::Cuda && numbers as u64 > Card::default().wave() && card_of(device)?.is_none())
    }
}

fn card_of(device: &Device) -> Result<Option<Card>> {
    let card = describe_cuda(device)?;
    Ok(card.map(|card| Card { multiprocessors: card.multiprocessors, threads: card.threads_per_multiprocessor }))
}
