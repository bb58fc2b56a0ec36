use std::{num::NonZeroUsize, sync::Arc};

use kakusan_data::{Batch, Batches, ImageSet, Loader};
use kakusan_rng::{Generator, dataloader_permutation};

/// Images of 1 x 2 pixels that encode their index.
fn images(n: usize) -> Arc<ImageSet> {
    let pixels = (0..n).flat_map(|i| [(i % 256) as u8, (i / 256) as u8]).collect();
    let labels = (0..n).map(|i| (i % 10) as u32).collect();
    Arc::new(ImageSet::new([1, 1, 2], pixels, labels, (0..10).map(|i| i.to_string()).collect()).unwrap())
}

fn loader(images: &Arc<ImageSet>, batch_size: usize) -> Loader {
    Loader::new(images.clone(), NonZeroUsize::new(batch_size).unwrap())
}

fn all(batches: Batches) -> Vec<Batch> {
    batches.map(Result::unwrap).collect()
}

#[test]
fn an_epoch_is_torchs_permutation_in_slices() {
    let set = images(1000);
    let loader = loader(&set, 128);
    let (mut rng, mut twin) = (Generator::new(3), Generator::new(3));
    for _ in 0..3 {
        let order = dataloader_permutation(&mut twin, 1000);
        let batches = all(loader.epoch(&mut rng));
        assert_eq!(batches.len(), loader.steps_per_epoch());
        assert_eq!(
            batches.iter().map(|b| b.indices.len()).collect::<Vec<_>>(),
            [128, 128, 128, 128, 128, 128, 128, 104]
        );
        assert_eq!(batches.iter().flat_map(|b| b.indices.clone()).collect::<Vec<_>>(), order);
        for batch in &batches {
            let labels: Vec<u32> = batch.indices.iter().map(|i| (i % 10) as u32).collect();
            assert_eq!(batch.labels, labels);
            let pixels: Vec<f32> =
                batch.indices.iter().flat_map(|i| [(i % 256) as f32 / 255.0, (i / 256) as f32 / 255.0]).collect();
            assert_eq!(batch.images, pixels);
        }
    }
    // The epochs drew from the generator exactly what torch draws.
    assert_eq!(rng.next_u64(), twin.next_u64());
}

#[test]
fn torchs_own_order() {
    // torch 2.15: manual_seed(0); DataLoader over 60,000 items, shuffled
    let batch = loader(&images(60_000), 8).epoch(&mut Generator::new(0)).next().unwrap().unwrap();
    assert_eq!(batch.indices, [11226, 15289, 1783, 11687, 36541, 43941, 49263, 7244]);
}

#[test]
fn batches_that_do_not_divide_and_sets_smaller_than_a_batch() {
    for (n, size, steps) in [(0, 4, 0), (1, 4, 1), (4, 4, 1), (5, 4, 2), (3, 1, 3)] {
        let loader = loader(&images(n), size);
        let mut epoch = loader.epoch(&mut Generator::new(0));
        assert_eq!((loader.steps_per_epoch(), epoch.len()), (steps, steps));
        let mut seen: Vec<usize> = epoch.by_ref().flat_map(|batch| batch.unwrap().indices).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..n).collect::<Vec<_>>());
        assert_eq!(epoch.len(), 0);
        assert!(epoch.next().is_none());
    }
}

#[test]
fn skipping_resumes_exactly() {
    let set = images(103);
    let loader = loader(&set, 10);
    let whole = all(loader.epoch(&mut Generator::new(5)));
    for skip in [0, 1, 7, 11, 12, usize::MAX] {
        let rest = loader.epoch(&mut Generator::new(5)).skip_batches(skip);
        assert_eq!(rest.len(), whole.len().saturating_sub(skip));
        assert_eq!(all(rest), whole[skip.min(whole.len())..]);
    }
    let mut started = loader.epoch(&mut Generator::new(5));
    assert_eq!(started.next().unwrap().unwrap(), whole[0]);
    assert_eq!(all(started.skip_batches(3)), whole[4..]);
}

#[test]
fn dropping_midway_ends_the_worker() {
    let set = images(10_000);
    let loader = loader(&set, 16);
    let before = Arc::strong_count(&set);
    let mut epoch = loader.epoch(&mut Generator::new(0));
    epoch.next();
    assert!(Arc::strong_count(&set) > before);
    drop(epoch); // joins the workers: a live worker would still hold the set, and a blocked one would hang here
    assert_eq!(Arc::strong_count(&set), before);
}
