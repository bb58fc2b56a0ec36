use std::{num::NonZeroUsize, sync::Arc};

use kakusan_data::{Class, Error, ImageSet, Loader, ReadImages};
use kakusan_rng::Generator;

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| i.to_string()).collect()
}

/// Six images of one pixel with the labels 2, 0, 2, 1, 0, 2; class 3 has no image.
fn six() -> ImageSet {
    ImageSet::new([1, 1, 1], vec![10, 20, 30, 40, 50, 60], vec![2, 0, 2, 1, 0, 2], names(4)).unwrap()
}

#[test]
fn every_byte_becomes_its_255th_exactly() {
    let set = ImageSet::new([1, 16, 16], (0..=255).collect(), vec![0], names(1)).unwrap();
    let expected: Vec<f32> = (0..=255).map(|p: u8| f32::from(p) / 255.0).collect();
    assert_eq!(set.pixels_f32(&[0]).unwrap(), expected);
}

#[test]
fn select_keeps_the_sets_order() {
    let set = six();
    assert_eq!(set.class_counts(), [2, 1, 3, 0]);
    for classes in [[2.into(), 1.into()], ["1".into(), 2.into()]] {
        let kept = set.select(&classes).unwrap();
        assert_eq!(kept.labels(), [2, 2, 1, 2]);
        assert_eq!((0..kept.len()).map(|i| kept.image(i).unwrap()[0]).collect::<Vec<_>>(), [10, 30, 40, 60]);
        assert_eq!(kept.class_names(), set.class_names());
    }
    assert_eq!(set.select(&[0, 1, 2].map(Class::from)).unwrap(), set);
}

#[test]
fn select_refuses_what_cannot_be_selected() {
    let set = six();
    assert!(matches!(set.select(&[]), Err(Error::EmptySelection)));
    assert!(matches!(set.select(&[1, 2, 1].map(Class::from)), Err(Error::DuplicateClass { class: Class::Number(1) })));
    for class in [3, 4, 255] {
        let message = set.select(&[1, class].map(Class::from)).unwrap_err().to_string();
        assert_eq!(message, format!("`classes` names {class}, but the set holds the classes 0, 1, 2"));
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let new = |h, w, pixels: usize, labels: Vec<u32>| ImageSet::new([1, h, w], vec![0; pixels], labels, names(2));
    assert!(new(2, 2, 8, vec![0, 1]).is_ok());
    assert!(new(2, 2, 0, vec![]).is_ok_and(|set| set.is_empty()));
    assert!(new(2, 2, 7, vec![0, 1]).is_err());
    assert!(new(2, 2, 12, vec![0, 1]).is_err());
    assert!(new(0, 2, 0, vec![0, 1]).is_err());
    assert!(new(usize::MAX, 2, 0, vec![]).is_err());
    assert!(new(usize::MAX, 1, 5, vec![0, 1]).is_err());
    assert!(new(1, 1, 2, vec![0, 2]).unwrap_err().to_string().contains("label 2"));
}

#[test]
fn the_mean_image() {
    let set = ImageSet::new([1, 1, 2], vec![0, 255, 51, 255, 0, 255], vec![0; 3], names(1)).unwrap();
    let mean = set.mean_image().unwrap();
    assert!((mean[0] - 17.0 / 255.0).abs() < 1e-7);
    assert_eq!(mean[1], 1.0);
    assert_eq!(ImageSet::new([1, 1, 2], vec![], vec![], names(1)).unwrap().mean_image().unwrap(), [0.0, 0.0]);
}

#[test]
fn floats_of_any_number_of_channels_stay_as_they_are() {
    let values: Vec<f32> = (0..24).map(|i| i as f32 - 7.5).collect(); // [3, 4, 1, 2]
    let set = ImageSet::from_f32([4, 1, 2], values.clone(), vec![0, 1, 0], names(2)).unwrap().as_latents();
    assert!(set.are_latents() && set.is_held() && set.channels() == 4);
    assert_eq!(set.pixels_f32(&[2, 0]).unwrap(), [&values[16..], &values[..8]].concat());
    assert_eq!(set.select(&[1.into()]).unwrap().pixels_f32(&[0]).unwrap(), values[8..16]);
    assert_eq!(set.mean_image().unwrap(), values[8..16]);
    assert_eq!(set.counts_by_class(), [("0".to_owned(), 2), ("1".to_owned(), 1)]);
    let refused = ImageSet::from_f32([1, 1, 2], vec![0.0, 1.0, 0.0, f32::NAN], vec![0, 0], names(1)).unwrap_err();
    assert!(refused.to_string().contains("image 1 holds NaN"), "{refused}");
}

/// Image `i` counts up in steps of 1/8, from `i` / 8.
struct Ramps;

impl ReadImages for Ramps {
    fn len(&self) -> usize {
        4
    }

    fn shape(&self) -> [usize; 3] {
        [2, 1, 2]
    }

    fn read(&self, i: usize, out: &mut [f32]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        out.iter_mut().zip(i..).for_each(|(pixel, at)| *pixel = at as f32 / 8.0);
        Ok(())
    }

    fn label(&self, i: usize) -> u32 {
        i as u32 % 2
    }

    fn class_names(&self) -> Vec<String> {
        names(2)
    }
}

#[test]
fn a_reader_of_the_program_is_a_set_like_any_other() {
    let set = ImageSet::from_reader(Ramps).unwrap();
    assert_eq!((set.len(), set.labels(), set.is_held(), set.may_skip()), (4, &[0, 1, 0, 1][..], false, false));
    assert_eq!(set.image(3).unwrap()[..], [96, 128, 159, 191]);
    let odd = set.select(&[1.into()]).unwrap();
    assert_eq!(odd.pixels_f32(&[1]).unwrap(), [0.375, 0.5, 0.625, 0.75]);
    assert_eq!(odd.mean_image().unwrap(), [0.25, 0.375, 0.5, 0.625]);

    // threads prepare the batches and mirror images if configured: each row is reversed
    let loader = Loader::new(Arc::new(set.clone().with_random_flip(true)), NonZeroUsize::MIN);
    let mut flipped = 0;
    for batch in loader.epoch(&mut Generator::new(0)) {
        let batch = batch.unwrap();
        let straight = set.pixels_f32(&batch.indices).unwrap();
        let mirrored = [straight[1], straight[0], straight[3], straight[2]];
        assert!(batch.images == straight || batch.images == mirrored);
        flipped += usize::from(batch.images == mirrored);
    }
    assert!((1..4).contains(&flipped), "{flipped}");
}
