//! Questions in words, for who can't see a picture: made up from word lists in the visitor's language, so
//! that none is likely to come twice.
//!
//! A program can be written that answers them all: what keeps that from paying is how few of them
//! bring a clearance ([`super::tries`]).

use super::{answer, dice::Secret};
use crate::challenge::page::language::LANGUAGES;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::LazyLock,
};

/// A question, and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub text: String,
    /// As [`answer::in_words`] makes it.
    pub answer: String,
    /// The language it is in (RFC 5646).
    pub language: &'static str,
}

/// One language: its words, and how it asks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    /// From zero on. In all lists, other spellings that count as the same stand after a `|`: of numbers
    /// they are kept here, of words and days in `spellings`.
    numbers: Vec<String>,
    days: Vec<String>,
    /// Words and days that have more than one spelling.
    #[serde(skip)]
    spellings: Vec<Vec<String>>,
    /// Each of things that belong together, and with nothing in another group.
    groups: Vec<Vec<String>>,
    separator: String,
    ask: BTreeMap<Form, Vec<String>>,
}

/// What can be asked. In the text, `{row}` stands for words or numbers in a row, `{word}` for one of
/// them, and `{a}` and `{b}` for numbers. Words are never inflected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    /// `{a}` plus `{b}`.
    Sum,
    /// The word at place `{a}` of a row.
    Nth,
    /// The word after `{word}` in a row.
    After,
    /// How many words a row has.
    Count,
    Largest,
    Smallest,
    /// The word that is of another group.
    Odd,
    /// The day after those in a row.
    Next,
    /// The last letter of `{word}`.
    Letter,
}

/// Words in a row.
const ROW: usize = 5;

static ALL: LazyLock<Vec<(&'static str, Words)>> = LazyLock::new(|| {
    let files = [
        ("en", include_str!("questions/en.json")),
        ("fr", include_str!("questions/fr.json")),
        ("de", include_str!("questions/de.json")),
        ("es", include_str!("questions/es.json")),
        ("it", include_str!("questions/it.json")),
        ("pt", include_str!("questions/pt.json")),
        ("nl", include_str!("questions/nl.json")),
        ("pl", include_str!("questions/pl.json")),
        ("uk", include_str!("questions/uk.json")),
        ("ar", include_str!("questions/ar.json")),
        ("ja", include_str!("questions/ja.json")),
        ("zh", include_str!("questions/zh.json")),
    ];
    // A test parses them all.
    let parse = |(tag, json)| Some((tag, Words::parse(json)?));
    files.into_iter().filter_map(parse).collect()
});

/// What number words mean, in all languages, folded.
static NUMBERS: LazyLock<HashMap<String, usize>> = LazyLock::new(|| {
    let languages = ALL.iter().map(|(_, words)| words);
    let numbers = languages.flat_map(|words| words.numbers.iter().enumerate());
    let spellings = numbers.flat_map(|(value, spellings)| {
        spellings
            .split('|')
            .map(move |spelling| (answer::fold(spelling), value))
    });
    spellings.collect()
});

/// What number words mean, folded.
#[must_use]
pub fn numbers() -> &'static HashMap<String, usize> {
    &NUMBERS
}

/// What words that have several spellings are taken for, folded: the first, in their order, of all that
/// are the same in some language. That is as good in the others, where all are answers, or none.
static SPELLINGS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let mut classes: Vec<BTreeSet<String>> = Vec::new();
    for spellings in ALL.iter().flat_map(|(_, words)| &words.spellings) {
        let mut class: BTreeSet<_> = spellings.iter().map(|text| answer::plain(text)).collect();
        let (same, others): (Vec<_>, Vec<_>) = std::mem::take(&mut classes)
            .into_iter()
            .partition(|known| !known.is_disjoint(&class));
        class.extend(same.into_iter().flatten());
        classes = others;
        classes.push(class);
    }
    let mut meant = HashMap::new();
    for class in classes {
        let Some(first) = class.first().cloned() else {
            continue;
        };
        meant.extend(class.into_iter().map(|spelling| (spelling, first.clone())));
    }
    meant
});

/// What words that have several spellings are taken for, folded.
#[must_use]
pub fn spellings() -> &'static HashMap<String, String> {
    &SPELLINGS
}

/// Makes a question up, in the language of this index in [`LANGUAGES`], or in English where there are no
/// words of it; `None` when the system gives no random bytes.
#[must_use]
pub fn ask(language: usize) -> Option<Question> {
    let tag = LANGUAGES.get(language).map(|language| language.tag);
    let known = ALL.iter().find(|(known, _)| Some(*known) == tag);
    let (tag, words) = known.or(ALL.first())?;
    let chance = &mut Secret::new();
    let forms: Vec<_> = words.ask.iter().collect();
    let (form, texts) = chance.pick(&forms)?;
    let (values, answer) = words.make(**form, chance)?;
    let mut text = chance.pick(texts)?.clone();
    for (slot, value) in values {
        text = text.replace(slot, &value);
    }
    Some(Question {
        text,
        answer: answer::in_words(&answer),
        language: tag,
    })
}

type Made = (Vec<(&'static str, String)>, String);

impl Words {
    fn parse(json: &str) -> Option<Self> {
        let mut words: Self = serde_json::from_str(json).ok()?;
        for word in words
            .days
            .iter_mut()
            .chain(words.groups.iter_mut().flatten())
        {
            let spellings: Vec<_> = word.split('|').map(str::to_owned).collect();
            word.clone_from(spellings.first()?);
            if spellings.len() > 1 {
                words.spellings.push(spellings);
            }
        }
        Some(words)
    }

    /// What goes into the text of a question, and its answer.
    fn make(&self, form: Form, chance: &mut Secret) -> Option<Made> {
        match form {
            Form::Sum => {
                let (a, b) = (chance.below(9)? + 2, chance.below(9)? + 2);
                let values = vec![("{a}", self.number(a)?), ("{b}", self.number(b)?)];
                Some((values, (a + b).to_string()))
            }
            Form::Nth => {
                let row = self.row(ROW, chance)?;
                let place = chance.below(ROW - 1)? + 1;
                let answer = row.get(place)?.clone();
                Some((
                    vec![("{a}", self.number(place + 1)?), self.in_a_row(&row)],
                    answer,
                ))
            }
            Form::After => {
                let row = self.row(ROW, chance)?;
                let place = chance.below(ROW - 1)?;
                let answer = row.get(place + 1)?.clone();
                Some((
                    vec![("{word}", row.get(place)?.clone()), self.in_a_row(&row)],
                    answer,
                ))
            }
            Form::Count => {
                let row = self.row(chance.below(5)? + 3, chance)?;
                Some((vec![self.in_a_row(&row)], row.len().to_string()))
            }
            Form::Largest => self.extreme(chance, |numbers| numbers.iter().max()),
            Form::Smallest => self.extreme(chance, |numbers| numbers.iter().min()),
            Form::Odd => {
                let mut groups: Vec<_> = self.groups.iter().collect();
                chance.shuffle(&mut groups)?;
                let mut most = (*groups.first()?).clone();
                chance.shuffle(&mut most)?;
                let odd = chance.pick(groups.get(1)?)?.clone();
                let mut row: Vec<_> = most.into_iter().take(ROW - 2).collect();
                row.push(odd.clone());
                chance.shuffle(&mut row)?;
                Some((vec![self.in_a_row(&row)], odd))
            }
            Form::Next => {
                let first = chance.below(self.days.len())?;
                let mut days = self.days.iter().cycle().skip(first);
                let row: Vec<_> = days.by_ref().take(2).cloned().collect();
                Some((vec![self.in_a_row(&row)], days.next()?.clone()))
            }
            Form::Letter => {
                let word = self.row(1, chance)?.pop()?;
                let letter = word.chars().next_back()?.to_string();
                Some((vec![("{word}", word)], letter))
            }
        }
    }

    fn extreme(
        &self,
        chance: &mut Secret,
        of: impl Fn(&[usize]) -> Option<&usize>,
    ) -> Option<Made> {
        let mut numbers: Vec<_> = (1..self.numbers.len()).collect();
        chance.shuffle(&mut numbers)?;
        numbers.truncate(4);
        let row: Vec<_> = numbers
            .iter()
            .map(|number| self.number(*number))
            .collect::<Option<_>>()?;
        Some((vec![self.in_a_row(&row)], of(&numbers)?.to_string()))
    }

    /// The word for a number.
    fn number(&self, number: usize) -> Option<String> {
        let spellings = self.numbers.get(number)?;
        spellings.split('|').next().map(str::to_owned)
    }

    /// Different words.
    fn row(&self, length: usize, chance: &mut Secret) -> Option<Vec<String>> {
        let mut words: Vec<_> = self.groups.iter().flatten().collect();
        chance.shuffle(&mut words)?;
        Some(words.into_iter().take(length).cloned().collect())
    }

    fn in_a_row(&self, row: &[String]) -> (&'static str, String) {
        ("{row}", row.join(&self.separator))
    }
}

#[cfg(test)]
mod tests;
