use kakusan_data::{Error, ImageSet};

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| i.to_string()).collect()
}

/// Six images of one pixel, labels 2, 0, 2, 1, 0, 2; class 3 has none.
fn six() -> ImageSet {
    ImageSet::new(1, 1, vec![10, 20, 30, 40, 50, 60], vec![2, 0, 2, 1, 0, 2], names(4)).unwrap()
}

#[test]
fn every_byte_becomes_its_255th_exactly() {
    let set = ImageSet::new(16, 16, (0..=255).collect(), vec![0], names(1)).unwrap();
    let expected: Vec<f32> = (0..=255).map(|p: u8| f32::from(p) / 255.0).collect();
    assert_eq!(set.pixels_f32(&[0]), expected);
}

#[test]
fn select_keeps_the_sets_order() {
    let set = six();
    assert_eq!(set.class_counts(), [2, 1, 3, 0]);
    for classes in [[2, 1], [1, 2]] {
        let kept = set.select(&classes).unwrap();
        assert_eq!(kept.labels(), [2, 2, 1, 2]);
        assert_eq!((0..kept.len()).map(|i| kept.image(i)[0]).collect::<Vec<_>>(), [10, 30, 40, 60]);
        assert_eq!(kept.class_names(), set.class_names());
    }
    assert_eq!(set.select(&[0, 1, 2]).unwrap(), set);
}

#[test]
fn select_refuses_what_cannot_be_selected() {
    let set = six();
    assert!(matches!(set.select(&[]), Err(Error::EmptySelection)));
    assert!(matches!(set.select(&[1, 2, 1]), Err(Error::DuplicateClass { class: 1 })));
    for class in [3, 4, 255] {
        let message = set.select(&[1, class]).unwrap_err().to_string();
        assert_eq!(message, format!("`classes` names {class}, but the set holds the classes 0, 1, 2"));
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let new = |h, w, pixels: usize, labels: Vec<u8>| ImageSet::new(h, w, vec![0; pixels], labels, names(2));
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
    let set = ImageSet::new(1, 2, vec![0, 255, 51, 255, 0, 255], vec![0; 3], names(1)).unwrap();
    let mean = set.mean_image();
    assert!((mean[0] - 17.0 / 255.0).abs() < 1e-7);
    assert_eq!(mean[1], 1.0);
    assert_eq!(ImageSet::new(1, 2, vec![], vec![], names(1)).unwrap().mean_image(), [0.0, 0.0]);
}
