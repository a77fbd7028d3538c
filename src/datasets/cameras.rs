//! The cameras of images, for networks with a camera embedding or camera statistics.

use super::labels::Label;
use super::read_cameras;
use crate::error::{Error, Result};
use crate::shape::VitConfig;
use std::collections::BTreeMap;
use std::path::Path;

/// The camera that no table knows, as users write it.
pub const NO_CAMERA: &str = "none";

/// The source of the cameras of images. A network with neither a camera embedding nor camera statistics needs none.
#[derive(Debug, Clone, Default)]
pub enum Cameras {
    /// Names of images as in Market-1501; or folders, for statistics that were computed by folders.
    #[default]
    Names,
    /// The first folder in the name of an image that is a camera.
    Folders,
    /// One camera took all images.
    One(String),
    /// Unknown cameras took all images.
    Unknown,
    /// Names of the cameras by names of images.
    Labels(BTreeMap<String, String>),
}

/// Hint of each error.
const HINT: &str = "--camera NAME takes the row of another camera for all images, --camera none adds no row";

impl Cameras {
    /// The camera of `--camera`, if it is given; else the names of the images.
    pub fn given(camera: Option<&str>) -> Cameras {
        match camera {
            None => Cameras::Names,
            Some(NO_CAMERA) => Cameras::Unknown,
            Some(camera) => Cameras::One(camera.to_string()),
        }
    }

    /// Reads `names`, `folders`, or the path of a table of cameras.
    ///
    /// # Errors
    /// Those of [`read_cameras`].
    pub fn read(source: &str) -> Result<Cameras> {
        match source {
            "names" => Ok(Cameras::Names),
            "folders" => Ok(Cameras::Folders),
            table => Ok(Cameras::Labels(read_cameras(Path::new(table))?)),
        }
    }

    /// The path of the table, if [`Self::read`] reads one.
    pub fn table(source: &str) -> Option<&Path> {
        (!["names", "folders"].contains(&source)).then(|| Path::new(source))
    }

    /// Returns the camera of an image, if it is known. `is_camera` recognises the folders that are cameras.
    pub fn of(&self, image: &str, is_camera: impl Fn(&str) -> bool) -> Option<String> {
        match self {
            Cameras::Names => Label::from_market_name(image).map(|label| label.camera.to_string()),
            Cameras::Folders => {
                let (folders, _) = image.rsplit_once('/')?;
                folders.split('/').find(|folder| is_camera(folder)).map(str::to_string)
            }
            Cameras::One(camera) => Some(camera.clone()),
            Cameras::Unknown => None,
            Cameras::Labels(labels) => labels.get(image).cloned(),
        }
    }

    /// Returns the row of an image in the network's camera embedding and statistics; 0 if it has neither. A camera
    /// without statistics has the row of all images.
    ///
    /// # Errors
    /// For a network with a camera embedding: [`Error::Usage`] for a camera of [`Cameras::One`] without a row;
    /// [`Error::Data`] for an image whose camera isn't known, or has no row.
    pub fn row(&self, config: &VitConfig, image: &str) -> Result<u32> {
        let Some(table) = &config.cameras else { return Ok(self.statistics_row(config, image).unwrap_or(0)) };
        let camera = self.source(config).of(image, |folder| table.row(folder).is_some());
        if let Cameras::One(camera) = self
            && table.row(camera).is_none()
        {
            return Err(Error::Usage(format!(
                "--camera {camera}: the model has rows for {}",
                shown(&table.names)
            )));
        }
        let Some(camera) = camera else {
            return Err(Error::Data(format!(
                "the model has a camera embedding, and {image} doesn't say its camera, unlike \
                 0002_c1s1_000451_03.jpg"
            ))
            .hinted(HINT));
        };
        table.row(&camera).ok_or_else(|| {
            Error::Data(format!(
                "{image} is by camera {camera}; the model has rows for {}",
                shown(&table.names)
            ))
            .hinted(HINT)
        })
    }

    /// Replaces the default by folders, if the network's statistics were computed by folders.
    fn source(&self, config: &VitConfig) -> &Cameras {
        match self {
            Cameras::Names if config.statistics.as_ref().is_some_and(|rows| rows.folders) => {
                &Cameras::Folders
            }
            source => source,
        }
    }

    /// Returns the row of an image in the network's camera statistics, if it has any.
    fn statistics_row(&self, config: &VitConfig, image: &str) -> Option<u32> {
        let statistics = config.statistics.as_ref()?;
        let camera = self.source(config).of(image, |folder| statistics.row(folder).is_some());
        camera.and_then(|camera| statistics.row(&camera)).or(u32::try_from(statistics.all()).ok())
    }

    /// Checks the cameras of all images before any is read.
    ///
    /// # Errors
    /// That of [`Self::row`] for the first image without a row; [`Error::Usage`] for a camera that is given to a
    /// network that has none.
    pub fn check<'i>(&self, config: &VitConfig, images: impl IntoIterator<Item = &'i String>) -> Result<()> {
        if let (Cameras::One(camera), false) = (self, config.has_camera_rows()) {
            return Err(Error::Usage(format!(
                "--camera {camera}: the model has no camera embedding and no camera statistics"
            )));
        }
        images.into_iter().try_for_each(|image| self.row(config, image).map(|_| ()))
    }

    /// Describes the images whose cameras have no statistics, if there are any and the user didn't ask for it.
    pub fn note<'i>(
        &self,
        config: &VitConfig,
        images: impl IntoIterator<Item = &'i String>,
    ) -> Option<String> {
        let statistics = config.statistics.as_ref().filter(|_| config.cameras.is_none())?;
        if let Cameras::Unknown = self {
            return None;
        }
        let (mut count, mut first, mut without) = (0, None, 0);
        for image in images {
            count += 1;
            if self.statistics_row(config, image) == u32::try_from(statistics.all()).ok() {
                first.get_or_insert(image);
                without += 1;
            }
        }
        let first = first?;
        Some(format!(
            "{without} of {count} images are by no camera of the model's statistics ({}), such as {first}: the mean \
             of all images is subtracted from theirs",
            shown(&statistics.cameras)
        ))
    }
}

/// Lists the first names.
fn shown(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let more = names.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{tail}", names[..names.len() - more].join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{CameraStatistics, CameraTable, ImageSize};

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
    fn cameras_without_statistics_have_the_row_of_all_images() {
        let statistics = |folders| CameraStatistics {
            cameras: ["1", "c2", "hall"].map(str::to_string).to_vec(),
            images: vec![30, 20, 10, 60],
            deviation: false,
            folders,
        };
        let of = |folders| VitConfig { cameras: None, statistics: Some(statistics(folders)), ..config(&[]) };
        let labels = Cameras::Labels(BTreeMap::from([("a.jpg".to_string(), "02".to_string())]));
        for (cameras, folders, image, row) in [
            (Cameras::Names, false, "hall/0002_c2s1_000451_03.jpg", 1),
            (Cameras::Names, false, "hall/a.jpg", 3),
            (Cameras::Names, false, "0002_c9s1_000451_03.jpg", 3),
            (Cameras::Names, true, "crops/hall/may/0002_c2s1_000451_03.jpg", 2),
            (Cameras::Names, true, "hall.jpg", 3),
            (Cameras::Folders, false, "x/2/hall/a.jpg", 1),
            (Cameras::given(Some("hall")), false, "a.jpg", 2),
            (Cameras::given(Some("door")), false, "a.jpg", 3),
            (Cameras::given(Some("none")), false, "0002_c2s1_000451_03.jpg", 3),
            (labels.clone(), false, "a.jpg", 1),
            (labels, false, "b.jpg", 3),
        ] {
            let images = [image.to_string()];
            cameras.check(&of(folders), &images).unwrap();
            assert_eq!(cameras.row(&of(folders), image).unwrap(), row, "{cameras:?} {image}");
            let is_noted = row == 3 && !matches!(cameras, Cameras::Unknown);
            assert_eq!(cameras.note(&of(folders), &images).is_some(), is_noted, "{cameras:?} {image}");
        }
        let names = ["0002_c1_1.jpg", "0002_c3_1.jpg", "b.jpg"].map(str::to_string);
        let note = Cameras::Names.note(&of(false), &names).unwrap();
        let wanted =
            "2 of 3 images are by no camera of the model's statistics (1, c2, hall), such as 0002_c3_1.jpg";
        assert!(note.starts_with(wanted), "{note}");
        assert_eq!(Cameras::Names.note(&config(&["1"]), &names), None);
    }

    #[test]
    fn long_tables_are_cut() {
        let names: Vec<String> = (1..=15).map(|row| row.to_string()).collect();
        assert_eq!(shown(&names), "1, 2, 3, 4, 5, 6, 7, 8 and 7 more");
    }
}
