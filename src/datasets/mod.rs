//! Re-identification data sets: the person and camera of each image, in splits.
//!
//! | layout | contents of the folder |
//! |---|---|
//! | Market-1501 | `bounding_box_train`, `query`, `bounding_box_test` or the folder itself, with files `0002_c1s1_000451_03.jpg` |
//! | VeRi-776 | `image_train`, `image_query`, `image_test` with files `0001_c001_00016450_0.jpg` |
//! | MARS | `bbox_train`, `bbox_test` with files `0001/0001C1T0001F001.jpg`; its queries are not read |
//! | CUHK03 | `labelled`, `detected` with files `1_001_1_01.png` and the lists that `tools/convert_cuhk03.py` writes |
//! | CUHK01 | `campus`, or the folder itself, with files `0001001.png` |
//! | MSMT17 | `list_train.txt`, `list_val.txt`, `list_query.txt`, `list_gallery.txt` and the folders they name |
//! | VIPeR, PRID 2011 | `cam_a`, `cam_b` with files `000_45.bmp`, files `person_0001.png`, or folders `person_0001` |
//! | Occluded-REID | `occluded_body_images`, `whole_body_images` with files `001/001_01.tif` |
//! | folders | `PERSON/CAMERA_anything.jpg`, optionally inside `train`, `query`, `gallery` |
//! | CSV | a file with the columns `path,person,camera,split`, and optionally `tracklet` and `frame` |
//!
//! Loading reads names and lists, never an image.

pub mod cameras;
mod capture;
mod cuhk;
mod custom;
pub mod labels;
mod market1501;
mod msmt17;
mod pairs;
pub mod sampler;
pub mod survey;
mod test_set;
pub mod uses;

pub use capture::Capture;
pub use custom::{read_cameras, read_captures, read_label_names, read_labels};
pub use test_set::{LabelNames, TestSet};

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::datasets::labels::{Label, Person};
use crate::error::{Error, Result};
use crate::images::walk::{self, LeftOut, Listing, readable};
use crate::storage::atomic::Identity;
use serde::{Deserialize, Serialize};

/// Name of a person who is in no query, outside the train split.
const DISTRACTOR: &str = "0000";

/// One image with its label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledImage {
    /// Path to open it by.
    pub path: PathBuf,
    /// Path below the data set's folder, separated by `/`.
    pub name: String,
    /// Person and camera.
    pub label: Label,
    /// Tracklet and frame.
    pub capture: Capture,
}

impl LabelledImage {
    /// Makes an image whose tracklet and frame are those in its name.
    pub fn new(path: PathBuf, name: String, label: Label) -> LabelledImage {
        let capture = Capture::from_name(&name);
        LabelledImage { path, name, label, capture }
    }
}

/// A data set in its splits. Each list is sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReidSet {
    /// Name of its folder or file.
    pub name: String,
    /// Layout of its files.
    pub layout: Layout,
    /// Description of the split, if the layout has several; else empty.
    pub variant: String,
    /// Training images.
    pub train: Vec<LabelledImage>,
    /// Images to search for.
    pub query: Vec<LabelledImage>,
    /// Images to search in, including junk and distractors.
    pub gallery: Vec<LabelledImage>,
    /// True if query and gallery are the same list. An image never matches itself.
    pub query_is_gallery: bool,
    /// Images without a label, with the reason.
    pub skipped: Vec<(String, String)>,
    /// Other files that the walk leaves out.
    pub left_out: LeftOut,
    /// Folders of training persons that hold no image.
    pub empty: Vec<String>,
    /// Images without a camera, in a data set without splits. They train, but are not scored. `skipped` lists them too.
    pub unscored: Vec<LabelledImage>,
    /// Names of the persons by the number in [`Label::person`].
    ///
    /// A published data set's own number is used: 2 for Market-1501's `0002`, 1017 for CUHK03's `1_017`. MSMT17 counts
    /// its training and test persons from 0 each; here the test persons follow the training persons. In custom data,
    /// names that are all different numbers are used as they are; otherwise persons are numbered from 0 in sorted
    /// order. `0000` is listed only if it is in the train split; elsewhere it is a distractor.
    pub persons: BTreeMap<u32, String>,
    /// Names of the cameras by [`Label::camera`], numbered as persons are. CUHK01 and CUHK03 have views 1 and 2.
    pub cameras: BTreeMap<u32, String>,
    /// True if the data set's folder itself was walked, not only some of its folders.
    walked_root: bool,
}

/// Layout of a data set's files; see the [module](self).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// Zheng et al., ICCV 2015, and data sets with the same names.
    Market1501,
    /// Li et al., CVPR 2014.
    Cuhk03,
    /// Li et al., ACCV 2012.
    Cuhk01,
    /// Wei et al., CVPR 2018.
    Msmt17,
    /// Vehicles: Liu et al., ECCV 2016.
    Veri,
    /// Zheng et al., ECCV 2016.
    Mars,
    /// Gray and Tao, ECCV 2008.
    Viper,
    /// Hirzer et al., SCIA 2011.
    Prid,
    /// Zhuo et al., ICME 2018.
    OccludedReid,
    /// One folder per person.
    #[default]
    Folders,
    /// A table.
    Csv,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layout::Market1501 => "Market-1501",
            Layout::Cuhk03 => "CUHK03",
            Layout::Cuhk01 => "CUHK01",
            Layout::Msmt17 => "MSMT17",
            Layout::Veri => "VeRi-776",
            Layout::Mars => "MARS",
            Layout::Viper => "VIPeR",
            Layout::Prid => "PRID 2011",
            Layout::OccludedReid => "Occluded-REID",
            Layout::Folders => "folders",
            Layout::Csv => "CSV",
        })
    }
}

/// Source of CUHK03's bounding boxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boxes {
    /// A pedestrian detector: harder, and the usual choice.
    #[default]
    Detected,
    /// People.
    Labelled,
}

/// Split of CUHK03.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cuhk03Protocol {
    /// 767 persons to train, 700 to test (Zhong et al., CVPR 2017).
    #[default]
    New,
    /// 1,367 persons to train, 100 to test, in 20 splits (Li et al., CVPR 2014).
    Classic,
}

/// Options for loading a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// The layout; `None` recognises it from the contents of the folder.
    pub layout: Option<Layout>,
    /// CUHK03's bounding boxes.
    pub boxes: Boxes,
    /// CUHK03's protocol.
    pub cuhk03: Cuhk03Protocol,
    /// Number of the split, from 1: CUHK03's classic protocol has 20, CUHK01 any number.
    pub split: u32,
    /// Seed of CUHK01's random splits.
    pub split_seed: u64,
    /// True if links inside the data set are followed. The layout's own folders may be links in any case.
    pub follow_links: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        let (boxes, cuhk03) = (Boxes::default(), Cuhk03Protocol::default());
        LoadOptions { layout: None, boxes, cuhk03, split: 1, split_seed: 0, follow_links: false }
    }
}

/// The list that an image belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    Train,
    Query,
    Gallery,
}

impl Split {
    const ALL: [Split; 3] = [Split::Train, Split::Query, Split::Gallery];

    /// Name in lists, tables and folder names.
    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Query => "query",
            Split::Gallery => "gallery",
        }
    }

    fn from_name(name: &str) -> Option<Split> {
        Split::ALL.into_iter().find(|split| split.name() == name)
    }
}

impl ReidSet {
    fn list(&mut self, split: Split) -> &mut Vec<LabelledImage> {
        match split {
            Split::Train => &mut self.train,
            Split::Query => &mut self.query,
            Split::Gallery => &mut self.gallery,
        }
    }

    /// Makes every image a query against all others, for a data set without splits.
    fn match_all_with_all(&mut self) {
        self.query = self.gallery.clone();
        self.query_is_gallery = true;
    }

    /// Rejects an image listed for two persons or cameras, or twice in one split.
    fn check_once(&self) -> std::result::Result<(), String> {
        let query = if self.query_is_gallery { &[][..] } else { &self.query };
        // Two names of one file, by a link, are one image.
        let mut seen: HashMap<Identity, (usize, &LabelledImage)> = HashMap::new();
        for (split, list) in [&self.train[..], query, &self.gallery].into_iter().enumerate() {
            for image in list {
                let LabelledImage { path, name, label, .. } = image;
                let identity = Identity::of(path).ok();
                let Some((before, first)) = identity.and_then(|id| seen.insert(id, (split, image))) else {
                    continue;
                };
                let [here, there] = [label, &first.label]
                    .map(|l| (self.person(l.person), camera_name(&self.cameras, l.camera)));
                if here != there {
                    return Err(format!(
                        "one image is listed for two: {} for person {} by camera {}, and {name} for person {} by camera {}",
                        first.name, there.0, there.1, here.0, here.1
                    ));
                }
                if split == before {
                    let again =
                        if first.name == *name { String::new() } else { format!(", as {} too", first.name) };
                    return Err(format!("{name} is listed twice in one split{again}"));
                }
            }
        }
        Ok(())
    }

    fn person(&self, person: Person) -> &str {
        person_name(&self.persons, person)
    }

    /// Adds the names of all persons and cameras that occur.
    fn name_all(&mut self, person: impl Fn(u32) -> String, camera: impl Fn(u32) -> String) {
        for image in self.train.iter().chain(&self.query).chain(&self.gallery) {
            let Label { person: whom, camera: by } = image.label;
            if let Person::Known(number) = whom {
                self.persons.entry(number).or_insert_with(|| person(number));
            }
            self.cameras.entry(by).or_insert_with(|| camera(by));
        }
    }
}

/// Names of persons that are numbers, each with the place where it was first found.
#[derive(Default)]
struct Spellings(BTreeMap<String, (String, String)>);

impl Spellings {
    /// Adds a name found at `place`, such as "line 3".
    ///
    /// # Errors
    /// Names both places if the same number was added in another spelling, such as 1 and 0001.
    fn add(&mut self, name: &str, place: impl FnOnce() -> String) -> std::result::Result<(), String> {
        if !labels::is_number(name) {
            return Ok(());
        }
        let number = name.trim_start_matches('0').to_string();
        let (first, there) = self.0.entry(number).or_insert_with(|| (name.to_string(), String::new()));
        if first != name {
            return Err(format!(
                "persons {first} ({there}) and {name} ({}) are the same number: use one spelling per person",
                place()
            ));
        }
        if there.is_empty() {
            *there = place();
        }
        Ok(())
    }
}

/// Lists the images of a data set.
///
/// `dir` is its folder, or the table itself for [`Layout::Csv`].
///
/// # Errors
/// `Io` if a folder or list can't be read or a list is malformed; `NothingToDo` if the layout isn't recognised or holds
/// no image; `Usage` if `options` ask for a missing split; `Data` if names or lists contradict each other: one person
/// in two spellings, or one image for two persons or twice in one split.
pub fn load(dir: &Path, options: &LoadOptions) -> Result<ReidSet> {
    let metadata = std::fs::metadata(dir).map_err(Error::io("read", dir))?;
    if options.split == 0 {
        return Err(Error::Usage("splits are counted from 1".to_string()));
    }
    let layout = match options.layout {
        Some(layout) => layout,
        None if metadata.is_file() => Layout::Csv,
        None => recognise(dir)?,
    };
    if !metadata.is_dir() && layout != Layout::Csv {
        return Err(Error::io("read", dir)(std::io::ErrorKind::NotADirectory.into()));
    }
    let mut found = match layout {
        Layout::Market1501 | Layout::Veri | Layout::Mars => {
            market1501::load(dir, layout, options.follow_links)?
        }
        Layout::Cuhk03 => cuhk::load_cuhk03(dir, options)?,
        Layout::Cuhk01 => cuhk::load_cuhk01(dir, options)?,
        Layout::Msmt17 => msmt17::load(dir)?,
        Layout::Viper | Layout::Prid | Layout::OccludedReid => {
            pairs::load(dir, layout, options.follow_links)?
        }
        Layout::Folders => custom::load_folders(dir, options.follow_links)?,
        Layout::Csv => custom::load_csv(dir)?,
    };
    for split in Split::ALL {
        found.list(split).sort_by(|a, b| a.name.cmp(&b.name));
    }
    if layout != Layout::Csv {
        found.check_once().map_err(|reason| Error::Data(format!("{}: {reason}", dir.display())))?;
    }
    if metadata.is_dir() && !found.walked_root {
        found.left_out.add_hidden(walk::names_in(dir)?.1);
    }
    let ReidSet { train, query, gallery, unscored, .. } = &found;
    if train.is_empty() && query.is_empty() && gallery.is_empty() && unscored.is_empty() {
        let first = found.skipped.first().map(|(file, why)| format!("; left out: {file} {why}"));
        return Err(Error::NothingToDo(format!(
            "no labelled image in {}, read as {layout}{}{}",
            dir.display(),
            first.unwrap_or_default(),
            found.left_out.after("; left out: ")
        )));
    }
    let name = dir.canonicalize().ok().and_then(|path| path.file_name().map(readable));
    let name = name.unwrap_or_else(|| readable(dir.as_os_str()));
    Ok(ReidSet { name, layout, ..found })
}

/// Name of a person.
fn person_name(persons: &BTreeMap<u32, String>, person: Person) -> &str {
    match person {
        Person::Known(number) => persons.get(&number).map_or("", String::as_str),
        Person::Distractor => DISTRACTOR,
        Person::Junk => "-1",
    }
}

/// Name of a camera.
fn camera_name(cameras: &BTreeMap<u32, String>, camera: u32) -> &str {
    cameras.get(&camera).map_or("unknown", String::as_str)
}

/// Recognises the layout from the contents of the folder.
fn recognise(dir: &Path) -> Result<Layout> {
    if let Some(layout) = by_folders(dir)? {
        return Ok(layout);
    }
    let entries = names_in(dir)?;
    if entries.iter().any(|name| cuhk::cuhk01_label(name).is_some()) {
        return Ok(Layout::Cuhk01);
    }
    if entries.iter().any(|name| is_market(name)) {
        return Ok(Layout::Market1501);
    }
    if custom::only_table(dir)?.is_some() {
        return Ok(Layout::Csv);
    }
    let folders: Vec<&String> = entries.iter().filter(|name| dir.join(name).is_dir()).collect();
    if folders.iter().any(|name| Split::from_name(name).is_some()) {
        return Ok(Layout::Folders);
    }
    let mut inside = Vec::new();
    for name in &folders {
        if let Some(layout) = inner(&dir.join(name))? {
            inside.push(format!("{} ({layout})", dir.join(name).display()));
        }
    }
    if !inside.is_empty() {
        return Err(Error::Data(format!(
            "{} is one folder above a data set: give {} (--layout folders reads it as PERSON/CAMERA_anything.jpg \
             anyway)",
            dir.display(),
            inside.join(" or ")
        )));
    }
    if !folders.is_empty() && folders.iter().all(|name| is_camera(name)) {
        return Err(Error::Data(format!(
            "the folders in {} are named like cameras ({}), not like persons: list the images in a CSV of \
             path,person,camera, or sort them as PERSON/CAMERA_anything.jpg (--layout folders takes the names for \
             persons anyway)",
            dir.display(),
            folders.iter().take(3).map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
        )));
    }
    if !folders.is_empty() {
        return Ok(Layout::Folders);
    }
    if walk::list_images(&[dir.to_path_buf()], false).is_err() {
        return Err(Error::NothingToDo(format!("no image in {}", dir.display())));
    }
    let error = Error::NothingToDo(format!(
        "{} has no known layout: Market-1501 (bounding_box_train, query, bounding_box_test), \
         VeRi-776 (image_train, image_query, image_test), MARS (bbox_train, bbox_test), CUHK03 (labelled, detected), \
         CUHK01 (campus), MSMT17 (list_train.txt …), VIPeR and PRID 2011 (cam_a, cam_b), Occluded-REID \
         (occluded_body_images, whole_body_images), PERSON/CAMERA_anything.jpg, or a CSV of path,person,camera,split",
        dir.display()
    ));
    Err(error.hinted(
        "`data`, `train` and `eval` need labels: one folder per person, or a .csv of path,person,camera,split; \
         `embed` and `search` need none",
    ))
}

fn is_market(name: &str) -> bool {
    Label::from_market_name(name).is_some()
}

/// The layout of a data set that is recognised by the names of its folders or lists.
fn by_folders(dir: &Path) -> Result<Option<Layout>> {
    let entries = names_in(dir)?;
    let has = |names: &[&str]| names.iter().any(|name| entries.iter().any(|entry| entry == name));
    // A folder `query` may also hold one folder per person.
    let query = dir.join(market1501::QUERY);
    let market = has(&[market1501::TRAIN, market1501::GALLERY])
        || query.is_dir() && names_in(&query)?.iter().any(|name| is_market(name));
    let pair = pairs::recognise(dir)?;
    Ok(if market {
        Some(Layout::Market1501)
    } else if has(&market1501::VERI) {
        Some(Layout::Veri)
    } else if has(&market1501::MARS) {
        Some(Layout::Mars)
    } else if msmt17::root(dir).is_some() {
        Some(Layout::Msmt17)
    } else if has(&cuhk::LABELLED) || has(&cuhk::DETECTED) {
        Some(Layout::Cuhk03)
    } else if has(&[cuhk::CAMPUS]) {
        Some(Layout::Cuhk01)
    } else {
        pair
    })
}

/// The layout of a folder that is itself a data set, and so no person's folder.
fn inner(dir: &Path) -> Result<Option<Layout>> {
    if let Some(layout) = by_folders(dir)? {
        return Ok(Some(layout));
    }
    if Split::ALL.into_iter().any(|split| dir.join(split.name()).is_dir()) {
        return Ok(Some(Layout::Folders));
    }
    Ok(custom::only_table(dir)?.filter(|table| custom::has_columns(table)).map(|_| Layout::Csv))
}

/// Returns whether a folder is named like a camera: cam1, cam_a, camera-12.
fn is_camera(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let Some(rest) = name.strip_prefix("cam") else { return false };
    let rest = rest.strip_prefix("era").unwrap_or(rest).trim_start_matches(['_', '-']);
    matches!(rest.len(), 1..=2) && rest.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Sorted names in a folder, without hidden ones.
fn names_in(dir: &Path) -> Result<Vec<String>> {
    Ok(walk::names_in(dir)?.0.iter().map(|name| readable(name)).collect())
}

/// Appends the images below `dir/folder` to `found`, and counts other files. `label` gives an image's split and label
/// by its name below `folder`, or the reason to skip it. An empty `folder` is `dir` itself.
fn list_into(
    found: &mut ReidSet,
    dir: &Path,
    folder: &str,
    follow_links: bool,
    mut label: impl FnMut(&str) -> std::result::Result<(Split, Label), String>,
) -> Result<()> {
    let below = |name: &str| if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
    let Listing { images, left_out } = walk::list_files(&dir.join(folder), follow_links)?;
    for image in images {
        let name = below(&image.name);
        match label(&image.name) {
            Ok((split, label)) => {
                found.list(split).push(LabelledImage::new(image.path, name, label));
            }
            Err(reason) => found.skipped.push((name, reason)),
        }
    }
    found.left_out.add(left_out, |name| below(&name));
    found.walked_root |= folder.is_empty();
    Ok(())
}

/// The lines of a list with their numbers, from 1, without empty lines and comments (`#`).
fn lines(path: &Path) -> Result<Vec<(usize, String)>> {
    let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
    let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim().to_string()));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect())
}

/// The error for a malformed list.
fn malformed(path: &Path, line: usize, reason: &str) -> Error {
    let reason = format!("line {line}: {reason}");
    Error::io("read", path)(std::io::Error::new(std::io::ErrorKind::InvalidData, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A temporary folder with empty files.
    pub fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            write(dir.path(), file, "");
        }
        dir
    }

    pub fn write(dir: &Path, file: &str, text: &str) {
        let path = dir.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn load_default(dir: &Path) -> ReidSet {
        load(dir, &LoadOptions::default()).unwrap()
    }

    /// Name, person and camera of each image.
    pub fn labels(images: &[LabelledImage]) -> Vec<(&str, Person, u32)> {
        images.iter().map(|p| (p.name.as_str(), p.label.person, p.label.camera)).collect()
    }

    pub fn names(map: &BTreeMap<u32, String>) -> Vec<(u32, &str)> {
        map.iter().map(|(number, name)| (*number, name.as_str())).collect()
    }

    #[test]
    fn layouts_are_recognised() {
        for (files, layout) in [
            (&["bounding_box_train/0001_c1s1_1_1.jpg"][..], Layout::Market1501),
            (&["query/0001_c1_f1.jpg"], Layout::Market1501),
            (&["0001_c1_f1.jpg"], Layout::Market1501),
            (&["labelled/1_001_1_01.png", "new_labelled.txt"], Layout::Cuhk03),
            (&["images_detected/1_001_1_01.png"], Layout::Cuhk03),
            (&["campus/0001001.png"], Layout::Cuhk01),
            (&["0001001.png"], Layout::Cuhk01),
            (&["list_train.txt", "train/0000/0000_000_01_0303morning_0015_0.jpg"], Layout::Msmt17),
            (&["MSMT17_V1/list_query.txt", "MSMT17_V1/test/x.jpg"], Layout::Msmt17),
            (&["query/0001/1_a.jpg", "gallery/0001/2_a.jpg"], Layout::Folders),
            (&["anna/hall_1.jpg"], Layout::Folders),
            (&["cam_a/1_a.jpg", "anna/1_a.jpg"], Layout::Folders),
            (&["image_train/0001_c001_00016450_0.jpg"], Layout::Veri),
            (&["image_query/0001_c001_00016450_0.jpg", "name_query.txt"], Layout::Veri),
            (&["bbox_train/0001/0001C1T0001F001.jpg"], Layout::Mars),
            (&["bounding_box_train/0001C1T0001F001.jpg"], Layout::Market1501),
            (&["0001C1T0001F001.jpg"], Layout::Market1501),
            (&["cam_a/000_45.bmp", "cam_b/000_90.bmp"], Layout::Viper),
            (&["cam_a/person_0001.png", "cam_b/person_0001.png"], Layout::Prid),
            (
                &["multi_shot/cam_a/person_0001/0001.png", "multi_shot/cam_b/person_0001/0001.png"],
                Layout::Prid,
            ),
            (
                &["occluded_body_images/001/001_01.tif", "whole_body_images/001/001_01.tif"],
                Layout::OccludedReid,
            ),
            (&["mine.csv", "images/1.jpg"], Layout::Csv),
        ] {
            assert_eq!(recognise(folder(files).path()).unwrap(), layout, "{files:?}");
        }
        for files in [&[][..], &["a.jpg"], &["notes.txt"], &["a.csv", "b.csv"]] {
            let error = recognise(folder(files).path()).unwrap_err();
            assert!(matches!(error.plain(), Error::NothingToDo(_)), "{files:?}: {error}");
        }
    }

    #[test]
    fn a_folder_above_a_data_set_is_rejected() {
        for (files, words) in [
            (
                &["market/bounding_box_train/0001_c1s1_1_1.jpg", "duke/query/0001_c1_f1.jpg"][..],
                "duke (Market-1501)",
            ),
            (&["VeRi/image_train/0001_c001_00016450_0.jpg"], "VeRi (VeRi-776)"),
            (&["mine/train/anna/1_a.jpg", "notes.txt"], "mine (folders)"),
            (&["VIPeR/cam_a/000_45.bmp", "VIPeR/cam_b/000_90.bmp"], "VIPeR (VIPeR)"),
            (&["cam1/1_a.jpg", "Camera_02/1_a.jpg"], "named like cameras"),
        ] {
            let error = recognise(folder(files).path()).unwrap_err();
            assert!(matches!(&error, Error::Data(text) if text.contains(words)), "{files:?}: {error}");
        }
        let dir = folder(&["set/1.jpg"]);
        write(dir.path(), "set/mine.csv", "path;person;camera\n1.jpg;1;1\n");
        assert!(recognise(dir.path()).unwrap_err().to_string().contains("set (CSV)"));
        // A table without the columns is no data set.
        write(dir.path(), "set/mine.csv", "name;age\nanna;1\n");
        assert_eq!(recognise(dir.path()).unwrap(), Layout::Folders);
        let dir = folder(&["cam1/1_a.jpg", "cam2/1_a.jpg"]);
        let options = LoadOptions { layout: Some(Layout::Folders), ..LoadOptions::default() };
        assert_eq!(load(dir.path(), &options).unwrap().persons.len(), 2);
    }

    #[test]
    fn load_reports_errors() {
        let dir = folder(&["bounding_box_train/a.jpg"]);
        match load(dir.path(), &LoadOptions::default()) {
            Err(Error::NothingToDo(text)) => {
                assert!(text.contains("Market-1501") && text.contains("bounding_box_train/a.jpg"), "{text}");
            }
            other => panic!("{other:?}"),
        }
        let nowhere = load(&dir.path().join("nowhere"), &LoadOptions::default());
        assert!(matches!(nowhere, Err(Error::Io { .. })));
        let as_folders = LoadOptions { layout: Some(Layout::Folders), ..LoadOptions::default() };
        let file = load(&dir.path().join("bounding_box_train/a.jpg"), &as_folders);
        assert!(matches!(file, Err(Error::Io { .. })));
        let zeroth = load(dir.path(), &LoadOptions { split: 0, ..LoadOptions::default() });
        assert!(matches!(zeroth, Err(Error::Usage(_))));
    }
}
