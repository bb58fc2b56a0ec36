//! Decodes the pictures and checks them pixel by pixel.

use std::io::Cursor;

use kakusan_report::pictures::{Block, Images, PictureError, animation, figure, file, grid, loss_curve};

/// Width, height and RGB of a PNG.
fn decode(png: &[u8]) -> (usize, usize, Vec<u8>) {
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
    let (width, height) = reader.info().size();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut rgb).unwrap();
    (width as usize, height as usize, rgb)
}

fn block<'a>(pixels: &'a [f32], rows: &[&str]) -> Block<'a> {
    Block {
        title: "",
        images: Images { pixels, channels: 1, height: 4, width: 5 },
        columns: 2,
        column_labels: vec!["0.00".into(), "1.00".into()],
        row_labels: rows.iter().map(|row| (*row).to_owned()).collect(),
    }
}

#[test]
fn a_grid_is_dark_ink_on_white_and_clips() {
    let pixels = [0.0, 1.0, 0.5, -3.0, 7.0, f32::NAN];
    let png =
        grid(Images { pixels: &pixels, channels: 1, height: 1, width: 2 }, 2, 1, &[("seed", "3".into())]).unwrap();
    let (width, height, rgb) = decode(&png);
    assert_eq!((width, height), (2 + 2 * 4, 2 + 2 * 3));
    let grey = |x: usize, y: usize| rgb[(y * width + x) * 3];
    assert_eq!([grey(2, 2), grey(3, 2), grey(6, 2), grey(7, 2), grey(2, 5), grey(3, 5)], [255, 0, 128, 255, 0, 255]);
    assert_eq!([grey(0, 0), grey(4, 2), grey(6, 5)], [255; 3]);
}

#[test]
fn a_figure_has_its_tiles_in_rows_with_room_for_the_labels() {
    let pixels: Vec<f32> = (0..4).flat_map(|image| vec![if image == 3 { 1.0 } else { 0.0 }; 20]).collect();
    let bare = decode(&figure("", &[block(&pixels, &[])], &[]).unwrap());
    let labelled = decode(&figure("A title", &[block(&pixels, &["image", "corrupted"])], &[]).unwrap());
    assert!(labelled.0 > bare.0 && labelled.1 > bare.1);
    // only the last tile is black: 5 x 4 pixels, each three wide; the rest is white or text
    let (width, height, rgb) = bare;
    let black = |x: usize, y: usize| rgb[(y * width + x) * 3] == 0;
    let tile: Vec<(usize, usize)> = (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .filter(|&(x, y)| {
            x + 15 <= width && y + 12 <= height && (0..12).all(|dy| (0..15).all(|dx| black(x + dx, y + dy)))
        })
        .collect();
    assert_eq!(tile.len(), 1);
    assert_eq!(tile[0], (width - 24 - 15, height - 24 - 12));
}

#[test]
fn a_loss_curve_stands_any_losses() {
    let wild = [0.05, f32::NAN, f32::INFINITY, -1.0, 1e30, 0.0];
    let many: Vec<f32> = (0..100_000).map(|i| 0.1 / (1.0 + i as f32 * 0.001)).collect();
    for (losses, per_epoch) in [(&[][..], 0), (&[0.02], 1), (&wild, 4), (&many, 145)] {
        let (width, height, rgb) = decode(&loss_curve(losses, per_epoch, &[], &[]).unwrap());
        assert_eq!((width, height), (900, 540));
        let blue = rgb.as_chunks::<3>().0.iter().filter(|[r, _, b]| *b > *r && *b - *r > 60).count();
        assert!(losses.is_empty() || blue > 0, "no curve");
    }
}

#[test]
fn wrong_sizes_and_pictures_too_large_are_refused() {
    let images = |pixels, height, width| grid(Images { pixels, channels: 1, height, width }, 8, 3, &[]);
    assert!(matches!(images(&[0.0; 7], 2, 2), Err(PictureError::Size { pixels: 7, .. })));
    assert!(matches!(images(&[], 0, 2), Err(PictureError::Size { .. })));
    assert!(matches!(images(&[0.0; 20_000], 20_000, 1), Err(PictureError::TooLarge { .. })));
    assert!(images(&[], 2, 2).is_ok());
}

#[test]
fn coloured_images_keep_their_colours_and_files_their_pixels() {
    let pixels = [1.0, 0.0, 0.5, 0.0, 1.0, 0.5, 0.0, 0.0, f32::NAN]; // red, green, and a blue that is NaN
    let images = Images { pixels: &pixels, channels: 3, height: 1, width: 3 };
    let (width, _, rgb) = decode(&grid(images, 1, 1, &[]).unwrap());
    assert_eq!(rgb[(2 * width + 2) * 3..(2 * width + 5) * 3], [255, 0, 0, 0, 255, 0, 255, 0, 255]);

    // PIL's round(255 * x): 0.5 / 255 to 0, 1.5 / 255 to 2
    let (_, _, bytes) = decode(&file(images, &[]).unwrap());
    assert_eq!(bytes, [255, 0, 0, 0, 255, 0, 255, 0, 255]);
    let grey = [0.5 / 255.0, 1.5 / 255.0, 2.5 / 255.0, 1.0];
    let (_, _, bytes) = decode(&file(Images { pixels: &grey, channels: 1, height: 2, width: 2 }, &[]).unwrap());
    assert_eq!(bytes, [0, 2, 2, 255]);
    let lost = [0.0, 1.0, f32::INFINITY, 1.0];
    let (_, _, bytes) = decode(&file(Images { pixels: &lost, channels: 1, height: 2, width: 2 }, &[]).unwrap());
    assert_eq!(bytes, [[0; 3], [255; 3], [255, 0, 255], [255; 3]].concat());
    let two = Images { pixels: &grey, channels: 2, height: 1, width: 2 };
    assert!(matches!(file(two, &[]), Err(PictureError::Channels { channels: 2 })));
}

#[test]
fn an_animation_has_a_frame_for_each_step() {
    let steps = [[0.0, 0.25], [0.5, 0.75], [1.0, 1.0]];
    let frames = steps.each_ref().map(|pixels| Images { pixels, channels: 1, height: 1, width: 2 });
    let png = animation(&frames, 1, 1, &[]).unwrap();
    let mut reader = png::Decoder::new(Cursor::new(png)).read_info().unwrap();
    let frames = reader.info().animation_control().unwrap().num_frames;
    assert_eq!(frames, 3);
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    for step in steps {
        reader.next_frame(&mut bytes).unwrap();
        assert_eq!(bytes[(2 * 6 + 2) * 3], (255.0f32 * (1.0 - step[0])).round() as u8);
    }
    assert!(animation(&[], 1, 1, &[]).is_err());
}
