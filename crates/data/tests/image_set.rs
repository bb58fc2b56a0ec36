use kakusan_data::{Class, Error, ImageSet};

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| i.to_string()).collect()
}

/// Six images of one pixel, labels 2, 0, 2, 1, 0, 2; class 3 has none.
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
