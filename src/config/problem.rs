//! What is wrong with a configuration and where. It owns the wording's frame
//! (`FILE:LINE:COL: message`) and the bound on how many problems are kept; what is wrong is said
//! by whoever found it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Further problems are only counted, so that a hopeless file can't fill memory or a log.
const KEPT: usize = 200;

/// A place in a file that the operator wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As the operator would name it from where the program was started.
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl Place {
    /// The beginning of `file`, for what is wrong with all of it.
    #[must_use]
    pub fn top(file: &Arc<Path>) -> Self {
        Self::new(file, 1, 1)
    }

    #[must_use]
    pub fn new(file: &Arc<Path>, line: usize, column: usize) -> Self {
        Self {
            file: Arc::clone(file),
            line,
            column,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// One thing that is wrong, or worth a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    /// One line: what is wrong, then a hint.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Problems as they are found, bounded.
#[derive(Debug, Default)]
pub struct Problems {
    kept: Vec<Problem>,
    beyond: usize,
}

impl Problems {
    pub fn add(&mut self, place: &Place, message: impl Into<String>) {
        if self.kept.len() >= KEPT {
            self.beyond = self.beyond.saturating_add(1);
            return;
        }
        let problem = Problem {
            place: place.clone(),
            message: message.into(),
        };
        if !self.kept.contains(&problem) {
            self.kept.push(problem);
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// In the order of the files' first mention, then by place.
    fn sorted(self) -> (Vec<Problem>, usize) {
        let mut order: Vec<Arc<Path>> = Vec::new();
        for problem in &self.kept {
            if !order.contains(&problem.place.file) {
                order.push(Arc::clone(&problem.place.file));
            }
        }
        let mut kept = self.kept;
        kept.sort_by_key(|problem| {
            let file = order.iter().position(|file| *file == problem.place.file);
            (file, problem.place.line, problem.place.column)
        });
        (kept, self.beyond)
    }

    #[must_use]
    pub fn into_vec(self) -> Vec<Problem> {
        self.sorted().0
    }

    /// With the `files` that have to change before loading can succeed.
    #[must_use]
    pub fn into_errors(self, files: Vec<PathBuf>) -> Errors {
        let (problems, beyond) = self.sorted();
        Errors {
            problems,
            beyond,
            files,
        }
    }
}

/// Why a configuration can't be loaded: everything that is wrong, never nothing.
#[derive(Clone, Debug)]
pub struct Errors {
    problems: Vec<Problem>,
    beyond: usize,
    files: Vec<PathBuf>,
}

impl Errors {
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The files that were read or looked for, absolute: a change to one of them may cure this.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
}

impl fmt::Display for Errors {
    /// One problem a line, without a last line break.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.beyond > 0 {
            write!(f, "\nand {} more", self.beyond)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hopeless_file_is_cut_short_and_counted() {
        let place = Place::top(&Arc::from(Path::new("f")));
        let mut problems = Problems::default();
        for number in 0..KEPT + 50 {
            problems.add(&place, format!("problem {number}"));
        }
        let shown = problems.into_errors(Vec::new()).to_string();
        assert_eq!(shown.lines().count(), KEPT + 1);
        assert!(shown.ends_with("\nand 50 more"));
    }

    #[test]
    fn problems_stand_in_the_order_of_the_files() {
        let (one, two) = (Arc::from(Path::new("b")), Arc::from(Path::new("a")));
        let mut problems = Problems::default();
        problems.add(&Place::new(&one, 9, 1), "last of the first");
        problems.add(&Place::new(&two, 1, 1), "second file");
        problems.add(&Place::new(&one, 2, 7), "first");
        problems.add(&Place::new(&one, 2, 7), "first");
        let shown = problems.into_errors(Vec::new()).to_string();
        assert_eq!(
            shown,
            "b:2:7: first\nb:9:1: last of the first\na:1:1: second file"
        );
    }
}
