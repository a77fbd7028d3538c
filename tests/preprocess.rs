//! Resizing against Pillow, byte for byte.

use lat_wgpu::images::decode::Rgb;
use lat_wgpu::images::preprocess::resize_bicubic;
use lat_wgpu::shape::ImageSize;
use safetensors::{Dtype, SafeTensors};

fn image(tensors: &SafeTensors<'_>, name: &str) -> Rgb {
    let Ok(tensor) = tensors.tensor(name) else { panic!("no tensor {name}") };
    assert_eq!(tensor.dtype(), Dtype::U8, "{name}");
    let &[height, width, 3] = tensor.shape() else { panic!("{name}: {:?}", tensor.shape()) };
    Rgb { height, width, pixels: tensor.data().to_vec() }
}

#[test]
fn resizes_like_pillow() {
    let file =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/pillow.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut pairs = 0;
    for name in tensors.names() {
        let Some(stem) = name.strip_suffix(".in") else { continue };
        let (input, expected) = (image(&tensors, name), image(&tensors, &format!("{stem}.out")));
        let size = ImageSize { height: expected.height, width: expected.width };
        let from = ImageSize { height: input.height, width: input.width };
        assert!(resize_bicubic(&input, size) == expected, "{name}: {from} to {size}");
        pairs += 1;
    }
    assert!(pairs > 0, "the file holds no pair");
}
