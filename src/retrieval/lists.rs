//! The first entries of ranked lists, for people to look at.

use super::metrics::{Relation, Retrieval, nearer};
use rayon::prelude::*;
use std::ops::Range;

/// One entry of a ranked list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// The gallery row.
    pub row: usize,
    /// Its distance from the query.
    pub distance: f32,
    /// True if it shows the query's person.
    pub is_match: bool,
}

/// Collects the first entries of each query's list from distances that come a few queries at a time.
pub struct RankedLists<'a> {
    retrieval: Retrieval<'a>,
    depth: usize,
    lists: Vec<Vec<Ranked>>,
}

impl<'a> RankedLists<'a> {
    /// Creates empty lists that keep `depth` entries each.
    pub fn new(retrieval: Retrieval<'a>, depth: usize) -> RankedLists<'a> {
        RankedLists { retrieval, depth, lists: Vec::new() }
    }

    /// Adds the queries of `range` with their distances `rows` (range.len(), gallery). Ranges must come in order.
    ///
    /// # Panics
    /// If `rows` has another length.
    pub fn add(&mut self, range: Range<usize>, rows: &[f32]) {
        let gallery = self.retrieval.gallery.len();
        assert_eq!(rows.len(), range.len() * gallery, "distances of queries {range:?}");
        let first = range.start;
        let list = |query: usize| self.list(query, &rows[(query - first) * gallery..][..gallery]);
        let lists: Vec<Vec<Ranked>> = range.into_par_iter().map(list).collect();
        self.lists.extend(lists);
    }

    /// The first entries of one query by its distances to the whole gallery, without rows that the protocol leaves out.
    fn list(&self, query: usize, distances: &[f32]) -> Vec<Ranked> {
        let relation = |row| self.retrieval.relation(query, row);
        let mut shown: Vec<(f32, usize)> = distances
            .iter()
            .enumerate()
            .filter(|(row, _)| relation(*row) != Relation::LeftOut)
            .map(|(row, &distance)| (distance, row))
            .collect();
        if self.depth < shown.len() {
            shown.select_nth_unstable_by(self.depth, |&a, &b| nearer(a, b));
            shown.truncate(self.depth);
        }
        shown.sort_unstable_by(|&a, &b| nearer(a, b));
        let entry = |(distance, row)| Ranked { row, distance, is_match: relation(row) == Relation::Match };
        shown.into_iter().map(entry).collect()
    }

    /// One list per query, nearest first; equally near rows in the order of the gallery.
    pub fn finish(self) -> Vec<Vec<Ranked>> {
        self.lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::labels::{Label, Person};
    use crate::retrieval::metrics::{Protocol, Rules};

    fn label(person: Person, camera: u32) -> Label {
        Label { person, camera }
    }

    #[test]
    fn lists_follow_the_protocol() {
        use Person::{Distractor, Junk, Known};
        let queries = [label(Known(1), 1), label(Known(2), 2)];
        let gallery = [
            label(Known(2), 1),
            label(Known(1), 1),
            label(Junk, 2),
            label(Known(1), 2),
            label(Distractor, 1),
        ];
        let rows = [3., 0., 1., 2., 2., 5., 4., 0., 1., 1.];
        let found = |rules, depth| {
            let mut lists =
                RankedLists::new(Retrieval { queries: &queries, gallery: &gallery, rules }, depth);
            lists.add(0..1, &rows[..5]);
            lists.add(1..2, &rows[5..]);
            let lists = lists.finish();
            lists
                .iter()
                .map(|list| list.iter().map(|entry| (entry.row, entry.distance, entry.is_match)).collect())
                .collect::<Vec<Vec<_>>>()
        };
        // The query's own camera and junk are left out; rows 3 and 4 are equally near.
        assert_eq!(
            found(Rules::default(), 3),
            [
                vec![(3, 2., true), (4, 2., false), (0, 3., false)],
                vec![(3, 1., false), (4, 1., false), (1, 4., false)]
            ]
        );
        assert_eq!(found(Rules::default(), 9)[1].len(), 4);
        assert_eq!(found(Rules::default(), 9)[1][3], (0, 5., true));
        assert_eq!(found(Rules::default(), 0), [vec![], vec![]]);
        let every = Rules { protocol: Protocol::ReleasedCode, ..Rules::default() };
        assert_eq!(found(every, 2)[0], [(1, 0., true), (2, 1., false)]);
    }

    #[test]
    fn an_image_is_not_in_its_own_list() {
        let labels = [label(Person::Known(1), 1), label(Person::Known(1), 2)];
        let rules = Rules { query_is_gallery: true, ..Rules::default() };
        let mut lists = RankedLists::new(Retrieval { queries: &labels, gallery: &labels, rules }, 10);
        lists.add(0..2, &[0., 1., 1., 0.]);
        let rows: Vec<Vec<usize>> =
            lists.finish().iter().map(|list| list.iter().map(|entry| entry.row).collect()).collect();
        assert_eq!(rows, [vec![1], vec![0]]);
    }
}
