//! The cameras of images, for networks with a camera embedding.

use crate::datasets::labels::Label;
use crate::error::{Error, Result};
use crate::shape::{CameraTable, VitConfig};
use std::collections::BTreeMap;

/// The source of the cameras of images. A network without a camera embedding needs none.
#[derive(Debug, Clone, Default)]
pub enum Cameras {
    /// Names of images as in Market-1501.
    #[default]
    Names,
    /// One camera took all images.
    One(String),
    /// Names of the cameras by names of images.
    Labels(BTreeMap<String, String>),
}

/// Hint of each error.
const HINT: &str = "--camera NAME takes the row of another camera for all images, --camera none adds no row";

impl Cameras {
    /// The camera of `--camera`, if it is given; else the names of the images.
    pub fn given(camera: Option<&str>) -> Cameras {
        camera.map_or(Cameras::Names, |camera| Cameras::One(camera.to_string()))
    }

    /// Returns the row of an image in the network's camera embedding; 0 if it has none.
    ///
    /// # Errors
    /// [`Error::Usage`] for a camera of [`Cameras::One`] without a row; [`Error::Data`] for an image whose camera isn't
    /// known, or has no row.
    pub fn row(&self, config: &VitConfig, image: &str) -> Result<u32> {
        let Some(table) = &config.cameras else { return Ok(0) };
        let camera = match self {
            Cameras::One(camera) => {
                return table.row(camera).ok_or_else(|| {
                    Error::Usage(format!("--camera {camera}: the model has rows for {}", rows(table)))
                });
            }
            Cameras::Names => Label::from_market_name(image).map(|label| label.camera.to_string()),
            Cameras::Labels(labels) => labels.get(image).cloned(),
        };
        let Some(camera) = camera else {
            return Err(Error::Data(format!(
                "the model has a camera embedding, and {image} doesn't say its camera, unlike \
                 0002_c1s1_000451_03.jpg"
            ))
            .hinted(HINT));
        };
        table.row(&camera).ok_or_else(|| {
            Error::Data(format!("{image} is by camera {camera}; the model has rows for {}", rows(table)))
                .hinted(HINT)
        })
    }

    /// Checks the cameras of all images before any is read.
    ///
    /// # Errors
    /// That of [`Self::row`] for the first image without a row; [`Error::Usage`] for a camera that is given to a
    /// network without a camera embedding.
    pub fn check<'i>(&self, config: &VitConfig, images: impl IntoIterator<Item = &'i String>) -> Result<()> {
        if let (Cameras::One(camera), None) = (self, &config.cameras) {
            return Err(Error::Usage(format!("--camera {camera}: the model has no camera embedding")));
        }
        images.into_iter().try_for_each(|image| self.row(config, image).map(|_| ()))
    }
}

/// Lists the first names of a table.
fn rows(table: &CameraTable) -> String {
    const SHOWN: usize = 8;
    let more = table.names.len().saturating_sub(SHOWN);
    let shown = &table.names[..table.names.len() - more];
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;

    fn config(names: &[&str]) -> VitConfig {
        let names = names.iter().map(|name| name.to_string()).collect();
        let plain = VitConfig::plain(ImageSize::square(32), 16, 64, 1, 1);
        VitConfig { cameras: Some(CameraTable { weight: 3.0, names }), ..plain }
    }

    #[test]
    fn cameras_come_from_names_labels_or_a_flag() {
        let config = config(&["c1", "c2", "hall"]);
        let market = "gallery/0002_c2s1_000451_03.jpg";
        assert_eq!(Cameras::Names.row(&config, market).unwrap(), 1);
        assert_eq!(Cameras::given(Some("hall")).row(&config, market).unwrap(), 2);
        let labels = Cameras::Labels(BTreeMap::from([("a.jpg".to_string(), "1".to_string())]));
        assert_eq!(labels.row(&config, "a.jpg").unwrap(), 0);
        let plain = VitConfig { cameras: None, ..config.clone() };
        assert_eq!(Cameras::Names.row(&plain, "a.jpg").unwrap(), 0);
        for (cameras, image, words) in [
            (Cameras::Names, "a.jpg", "a.jpg doesn't say its camera"),
            (Cameras::Names, "0002_c9s1_000451_03.jpg", "by camera 9; the model has rows for c1, c2, hall"),
            (labels, "b.jpg", "b.jpg doesn't say"),
            (Cameras::given(Some("9")), "a.jpg", "--camera 9: the model has rows for c1, c2, hall"),
        ] {
            let error = cameras.check(&config, &[image.to_string()]).unwrap_err();
            assert!(error.with_causes().contains(words), "{error:?}");
            assert!(format!("{error:?}").contains("--camera"), "{error:?}");
        }
        let refused = Cameras::given(Some("c1")).check(&plain, &[]).unwrap_err().to_string();
        assert!(refused.contains("no camera embedding"), "{refused}");
    }

    #[test]
    fn long_tables_are_cut() {
        let names: Vec<String> = (1..=15).map(|row| row.to_string()).collect();
        assert_eq!(rows(&CameraTable { weight: 3.0, names }), "1, 2, 3, 4, 5, 6, 7, 8 and 7 more");
    }
}
