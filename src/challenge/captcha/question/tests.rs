//! Every language asks what can be answered.

use super::*;
use std::collections::HashSet;

const ALL_FORMS: [Form; 9] = [
    Form::Sum,
    Form::Nth,
    Form::After,
    Form::Count,
    Form::Largest,
    Form::Smallest,
    Form::Odd,
    Form::Next,
    Form::Letter,
];

#[test]
fn every_language_has_its_words() {
    assert_eq!(ALL.len(), 12, "a file is not what is expected");
    for (tag, words) in ALL.iter() {
        assert_eq!(words.numbers.len(), 21, "{tag}");
        assert_eq!(words.days.len(), 7, "{tag}");
        assert!(words.groups.len() >= 5, "{tag}");
        assert!(words.ask.len() >= 7, "{tag}");
        let mut known = HashSet::new();
        for word in words.groups.iter().flatten() {
            let folded = answer::in_words(word);
            assert!(!folded.is_empty(), "{tag}: {word}");
            assert!(known.insert(folded), "{tag}: {word} stands there twice");
        }
        let days: HashSet<_> = words.days.iter().map(|day| answer::in_words(day)).collect();
        assert_eq!(days.len(), 7, "{tag}: {days:?}");
        // No word is a number, in whichever language: one would do for the other.
        for spelling in words.groups.iter().chain(&words.spellings).flatten() {
            assert!(!spelling.contains('|') && !spelling.is_empty());
            assert!(
                !numbers().contains_key(&answer::plain(spelling)),
                "{tag}: {spelling}"
            );
        }
    }
}

#[test]
fn a_number_word_means_one_number_wherever_it_is_read() {
    let mut meanings: HashMap<String, usize> = HashMap::new();
    for (tag, words) in ALL.iter() {
        for (value, spellings) in words.numbers.iter().enumerate() {
            for spelling in spellings.split('|') {
                let folded = answer::fold(spelling);
                assert!(!folded.is_empty(), "{tag}: {spelling}");
                let known = *meanings.entry(folded).or_insert(value);
                assert_eq!(known, value, "{tag}: {spelling}");
            }
        }
    }
}

/// What the words of a question were, for a form whose answer stands among them.
fn values(words: &Words, form: Form) -> (HashMap<&'static str, String>, String) {
    let (values, answer) = words.make(form, &mut Secret::new()).unwrap();
    (values.into_iter().collect(), answer)
}

#[test]
fn all_slots_of_a_text_are_filled_and_all_values_are_shown() {
    for (tag, words) in ALL.iter() {
        for (form, texts) in &words.ask {
            let (values, _) = values(words, *form);
            assert!(!texts.is_empty());
            for text in texts {
                let mut left = text.clone();
                for slot in values.keys() {
                    assert!(left.contains(slot), "{tag}, {form:?}: {slot} is missing");
                    left = left.replace(slot, "");
                }
                assert!(!left.contains('{'), "{tag}, {form:?}: {left}");
            }
        }
    }
}

#[test]
fn answers_are_right() {
    for (tag, words) in ALL.iter() {
        let number = |word: &str| numbers()[&answer::fold(word)];
        for form in ALL_FORMS
            .into_iter()
            .filter(|form| words.ask.contains_key(form))
        {
            for _ in 0..50 {
                let (values, answer) = values(words, form);
                let empty = String::new();
                let row: Vec<_> = values
                    .get("{row}")
                    .unwrap_or(&empty)
                    .split(&words.separator)
                    .collect();
                let right = match form {
                    Form::Sum => (number(&values["{a}"]) + number(&values["{b}"])).to_string(),
                    Form::Nth => row[number(&values["{a}"]) - 1].to_owned(),
                    Form::After => {
                        let place = row.iter().position(|word| *word == values["{word}"]);
                        row[place.unwrap() + 1].to_owned()
                    }
                    Form::Count => row.len().to_string(),
                    Form::Largest => row
                        .iter()
                        .map(|word| number(word))
                        .max()
                        .unwrap()
                        .to_string(),
                    Form::Smallest => row
                        .iter()
                        .map(|word| number(word))
                        .min()
                        .unwrap()
                        .to_string(),
                    Form::Odd => {
                        let group = |word: &str| {
                            let has = |group: &Vec<String>| group.iter().any(|known| known == word);
                            words.groups.iter().position(has).unwrap()
                        };
                        let alone = |word: &&&str| {
                            let same = row.iter().filter(|other| group(other) == group(word));
                            same.count() == 1
                        };
                        assert_eq!(row.iter().filter(alone).count(), 1, "{tag}: {row:?}");
                        (*row.iter().find(alone).unwrap()).to_owned()
                    }
                    Form::Next => {
                        let last = words.days.iter().position(|day| day == row[1]).unwrap();
                        words.days[(last + 1) % 7].clone()
                    }
                    Form::Letter => values["{word}"].chars().last().unwrap().to_string(),
                };
                assert_eq!(answer, right, "{tag}, {form:?}: {values:?}");
                assert!(
                    !answer::in_words(&answer).is_empty(),
                    "{tag}, {form:?}: {values:?}"
                );
            }
        }
    }
}

#[test]
fn a_question_is_short_and_seldom_the_same() {
    for language in 0..LANGUAGES.len() {
        let texts: HashSet<_> = (0..200).map(|_| ask(language).unwrap().text).collect();
        assert!(texts.len() > 120, "{}", texts.len());
        for text in texts {
            assert!(text.chars().count() < 180, "{text}");
            assert!(!text.contains(['{', '}', '|', '<', '&']), "{text}");
        }
    }
}

#[test]
fn other_spellings_are_taken_for_the_one_that_is_shown() {
    let mut several = 0;
    for (_, words) in ALL.iter() {
        for spellings in &words.spellings {
            let shown = answer::in_words(&spellings[0]);
            assert!(
                spellings
                    .iter()
                    .all(|other| answer::in_words(other) == shown)
            );
            assert_eq!(answer::in_words(&shown), shown);
            several += 1;
        }
    }
    assert!(several > 90, "{several}");
}

#[test]
fn french_questions_are_set_as_french_is() {
    let (_, french) = ALL.iter().find(|(tag, _)| *tag == "fr").unwrap();
    for text in french.ask.values().flatten() {
        assert!(text.ends_with("\u{202f}?"), "{text}");
        for (sign, before) in [(':', '\u{a0}'), ('»', '\u{a0}')] {
            for (place, _) in text.match_indices(sign) {
                assert!(text[..place].ends_with(before), "{text}");
            }
        }
        assert!(!text.contains('\''), "{text}");
    }
}

#[test]
fn a_language_without_words_is_asked_in_english() {
    assert_eq!(ask(usize::MAX).unwrap().language, "en");
    for (index, language) in LANGUAGES.iter().enumerate() {
        assert_eq!(ask(index).unwrap().language, language.tag);
    }
}
