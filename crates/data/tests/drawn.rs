use kakusan_data::{Class, DataConfig, DatasetName, Error, ImageSet, SourceKind, draw_digits, load};

const ALL: [u8; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

fn image(set: &ImageSet, i: usize) -> Vec<u8> {
    set.image(i).unwrap().into_owned()
}

/// The images of one class, in order.
fn of_class(set: &ImageSet, class: u8) -> Vec<Vec<u8>> {
    (0..set.len()).filter(|&i| set.label(i) == u32::from(class)).map(|i| image(set, i)).collect()
}

/// The 64-bit FNV-1a hash of all pixels.
fn fingerprint(set: &ImageSet) -> u64 {
    let pixels = (0..set.len()).flat_map(|i| image(set, i));
    pixels.fold(0xcbf2_9ce4_8422_2325, |hash, p| (hash ^ u64::from(p)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn one_seed_gives_the_same_digits_on_every_machine() {
    let set = draw_digits(&ALL, 50, 0).unwrap();
    assert_eq!(set, draw_digits(&ALL, 50, 0).unwrap());
    assert_eq!(fingerprint(&set), 2_489_916_604_106_890_129);
}

#[test]
fn seeds_differ_in_all_their_64_bits() {
    let sets = [0, 1, 2, 1 << 31, 1 << 32, 1 << 63, u64::MAX].map(|seed| draw_digits(&[3], 5, seed).unwrap());
    for (i, a) in sets.iter().enumerate() {
        assert!(sets[..i].iter().all(|b| a != b));
    }
}

#[test]
fn the_test_split_has_other_digits() {
    let config = DataConfig {
        sources: vec![SourceKind::Drawn],
        drawn_per_class: 20,
        ..DataConfig::new(DatasetName::Mnist).with_classes([3])
    };
    let split = |split: &str| load(&config.clone().with_split(split)).unwrap().images;
    assert_eq!(*split("train"), draw_digits(&[3], 20, 0).unwrap());
    let (train, test) = (of_class(&split("train"), 3), of_class(&split("test"), 3));
    assert!(test.len() == 20 && test.iter().all(|digit| !train.contains(digit)));
}

#[test]
fn a_digit_is_the_same_in_any_company() {
    let all = draw_digits(&ALL, 40, 7).unwrap();
    let some = draw_digits(&[8, 1, 4], 25, 7).unwrap();
    for class in [1, 4, 8] {
        assert_eq!(of_class(&some, class), of_class(&all, class)[..25]);
    }
}

#[test]
fn the_classes_take_turns_in_ascending_order() {
    let set = draw_digits(&[8, 1, 4], 3, 0).unwrap();
    assert_eq!(set.labels(), [1, 4, 8, 1, 4, 8, 1, 4, 8]);
    assert_eq!(set.class_names().len(), 10);
    assert_eq!(set, draw_digits(&[4, 8, 1], 3, 0).unwrap());
}

#[test]
fn no_digit_comes_twice() {
    let set = draw_digits(&ALL, 300, 0).unwrap();
    let mut images: Vec<Vec<u8>> = (0..set.len()).map(|i| image(&set, i)).collect();
    images.sort_unstable();
    images.dedup();
    assert_eq!(images.len(), set.len());
}

/// The properties of MNIST's digits: the amount of ink per class, a box of 20 pixels, centring by mass, a black border.
#[test]
fn the_ink_is_as_in_mnist() {
    // the mean pixel of MNIST's training images per class, from 0 to 1
    let mnist = [0.1734, 0.0760, 0.1490, 0.1415, 0.1214, 0.1287, 0.1373, 0.1145, 0.1502, 0.1226];
    let set = draw_digits(&ALL, 400, 0).unwrap();
    for (class, expected) in (0..10).zip(mnist) {
        let images = of_class(&set, class);
        let total: f64 = images.iter().flat_map(|image| image.iter()).map(|&p| f64::from(p)).sum();
        let mean = total / (255.0 * 784.0 * 400.0);
        assert!((mean / expected - 1.0).abs() < 0.15, "class {class}: {mean} against {expected}");
        for image in images {
            let ink = |i: usize| f64::from(image[i]);
            let mass: f64 = (0..784).map(ink).sum();
            assert!((0.03..0.35).contains(&(mass / 255.0 / 784.0)), "class {class}: {mass}");
            assert!(image.contains(&255), "class {class} never reaches full ink");
            let x = (0..784).map(|i| ink(i) * ((i % 28) as f64 + 0.5)).sum::<f64>() / mass;
            let y = (0..784).map(|i| ink(i) * ((i / 28) as f64 + 0.5)).sum::<f64>() / mass;
            assert!((x - 14.0).abs() < 2.5 && (y - 14.0).abs() < 2.5, "class {class}: centred at {x}, {y}");
            let side = |f: fn(usize) -> usize| {
                let inked = (0..784).filter(|&i| image[i] > 0).map(f);
                inked.clone().max().unwrap_or(0) + 1 - inked.min().unwrap_or(0)
            };
            let longer = side(|i| i % 28).max(side(|i| i / 28));
            assert!((18..=22).contains(&longer), "class {class} is {longer} pixels long");
            let border = (0..28).flat_map(|i| [i, 27 * 28 + i, i * 28, i * 28 + 27]);
            assert!(border.map(ink).sum::<f64>() == 0.0, "class {class} touches the border");
        }
    }
}

/// The fraction of images in `set` whose nearest neighbour in `known` has the same class.
fn nearest_neighbour(known: &ImageSet, set: &ImageSet) -> f64 {
    let distance =
        |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(&a, &b)| (i32::from(a) - i32::from(b)).pow(2)).sum::<i32>();
    let right = (0..set.len()).filter(|&i| {
        let nearest = (0..known.len()).min_by_key(|&j| distance(&image(set, i), &image(known, j)));
        nearest.is_some_and(|j| known.label(j) == set.label(i))
    });
    right.count() as f64 / set.len() as f64
}

#[test]
fn the_classes_can_be_told_apart() {
    let share = nearest_neighbour(&draw_digits(&ALL, 200, 0).unwrap(), &draw_digits(&ALL, 40, 1).unwrap());
    assert!(share > 0.9, "{share}");
}

#[test]
fn bad_requests_are_refused() {
    assert!(matches!(draw_digits(&[], 1, 0), Err(Error::EmptySelection)));
    assert!(matches!(draw_digits(&[3, 1, 3], 1, 0), Err(Error::DuplicateClass { class: Class::Number(3) })));
    assert!(matches!(draw_digits(&[3, 10], 1, 0), Err(Error::UnknownClass { class: Class::Number(10), .. })));
    assert!(matches!(draw_digits(&[3], usize::MAX, 0), Err(Error::Config { key: "drawn_per_class", .. })));
    assert!(draw_digits(&[3], 0, 0).unwrap().is_empty());
}
