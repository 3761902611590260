//! What counts as the same answer, and how a ticket remembers the right one without telling it.
//!
//! A ticket holds a random salt and an HMAC-SHA-256 of salt, kind of puzzle and answer under a key of
//! its own, cut to 128 bits. Whoever has the ticket and not the key can try no answer on it.

use super::question::{numbers, spellings};
use icu_normalizer::DecomposingNormalizerBorrowed;
use ring::hmac;
use verdict::ticket::{Detail, Kind};

const SALT: usize = 16;
const TAG: usize = 16;

/// Longer answers, in characters, are wrong without a further look.
pub const MAX_CHARACTERS: usize = 64;

/// The keys, first the one that new tickets get.
#[derive(Debug)]
pub struct Keys(Vec<hmac::Key>);

impl Keys {
    /// Derived, so that what is sealed with the same secrets elsewhere says nothing here.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let derive = |secret: &[u8]| {
            let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
            let derived = hmac::sign(&root, b"rempart captcha answer 1");
            hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref())
        };
        Self(secrets.into_iter().map(derive).collect())
    }

    /// What the ticket is to remember of the answer, which is one that [`of_picture`] or
    /// [`in_words`] made.
    #[must_use]
    pub fn detail(&self, kind: Kind, answer: &str, salt: [u8; SALT]) -> Option<Detail> {
        let tag = sign(self.0.first()?, kind, answer, &salt);
        let tag = tag.as_ref().get(..TAG)?;
        let both: Vec<u8> = salt.iter().chain(tag).copied().collect();
        Detail::try_from(both.as_slice()).ok()
    }

    /// Whether this is the answer that the ticket remembers. An empty one never is.
    #[must_use]
    pub fn is_right(&self, kind: Kind, answer: &str, detail: &Detail) -> bool {
        let Some((salt, tag)) = detail.split_at_checked(SALT) else {
            return false;
        };
        if answer.is_empty() || tag.len() != TAG {
            return false;
        }
        self.0.iter().any(|key| {
            let right = sign(key, kind, answer, salt);
            right.as_ref().get(..TAG).is_some_and(|right| {
                // In a time that does not depend on where they differ.
                subtle::ConstantTimeEq::ct_eq(right, tag).into()
            })
        })
    }
}

/// The salt has a fixed length, and so has the kind: nothing can be read as part of another.
fn sign(key: &hmac::Key, kind: Kind, answer: &str, salt: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(salt);
    context.update(&[kind as u8]);
    context.update(answer.as_bytes());
    context.sign()
}

/// The characters that somebody read in a picture: in capitals, without blanks; those that look like one
/// that is drawn, in whichever script, as that one.
#[must_use]
pub fn of_picture(text: &str) -> String {
    letters(text)
        .map(|character| match character {
            'F' | 'Е' | 'Ε' => 'E',
            'P' | 'Р' | 'Ρ' => 'R',
            'V' => 'U',
            'S' => '5',
            'Z' | 'Ζ' => '2',
            'А' | 'Α' => 'A',
            'С' => 'C',
            'Н' | 'Η' => 'H',
            'Ј' => 'J',
            'К' | 'Κ' => 'K',
            'М' | 'Μ' => 'M',
            'Т' | 'Τ' => 'T',
            'Х' | 'Χ' => 'X',
            'У' | 'Υ' => 'Y',
            'Ч' => '4',
            other => other,
        })
        .collect()
}

/// An answer in words: without case, diacritics, articles, blanks and punctuation; numbers as digits, in
/// whichever of our languages they were written, and of several spellings always the same one.
#[must_use]
pub fn in_words(text: &str) -> String {
    let plain = plain(text);
    if let Some(number) = numbers().get(&plain) {
        return number.to_string();
    }
    if plain.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = plain.trim_start_matches('0');
        return if number.is_empty() && !plain.is_empty() {
            "0"
        } else {
            number
        }
        .to_owned();
    }
    spellings().get(&plain).cloned().unwrap_or(plain)
}

/// Articles of our languages, which somebody may put before a word.
const ARTICLES: [&str; 32] = [
    "the", "a", "an", "le", "la", "les", "un", "une", "des", "der", "die", "das", "den", "ein",
    "eine", "einen", "el", "los", "las", "una", "uno", "il", "lo", "i", "gli", "o", "os", "as",
    "um", "uma", "de", "het",
];

/// As [`in_words`], but numbers and words stay as they were spelled.
#[must_use]
pub fn plain(text: &str) -> String {
    let text = text.trim();
    let elided = text.split_once(['\'', '’']);
    let is_elided = |before: &str| ["l", "L", "un", "Un"].contains(&before);
    let rest = match (text.split_once(char::is_whitespace), elided) {
        (Some((first, rest)), _) if ARTICLES.contains(&&*first.to_lowercase()) => rest,
        (_, Some((first, rest))) if is_elided(first) => rest,
        _ => text,
    };
    let folded = fold(rest);
    // In Arabic it is written together with the word. That makes two of Monday, which is the second.
    match folded.trim_start_matches("ال") {
        "" => folded,
        word => word.to_owned(),
    }
}

/// Without case, diacritics, blanks and punctuation.
#[must_use]
pub fn fold(text: &str) -> String {
    let mut folded = String::new();
    for character in letters(text).flat_map(char::to_lowercase) {
        match character {
            'ß' => folded.push_str("ss"),
            'œ' => folded.push_str("oe"),
            'æ' => folded.push_str("ae"),
            'ø' => folded.push('o'),
            'ł' => folded.push('l'),
            'đ' => folded.push('d'),
            'ґ' => folded.push('г'),
            'ة' => folded.push('ه'),
            'ى' => folded.push('ي'),
            other => folded.push(other),
        }
    }
    folded
}

/// Letters and digits in capitals, without marks (NFKD also makes plain ones of full-width and
/// other forms). None at all of a text that is too long.
fn letters(text: &str) -> impl Iterator<Item = char> {
    let long = text.chars().nth(MAX_CHARACTERS).is_some();
    let text = if long { "" } else { text };
    let normalizer = DecomposingNormalizerBorrowed::new_nfkd();
    let plain = normalizer
        .normalize_iter(text.chars())
        .filter(|character| is_voice(*character) || character.is_alphanumeric());
    // Again, since what stood apart now stands together: marks have an order.
    normalizer
        .normalize_iter(plain)
        .map(|character| match character {
            '\u{660}'..='\u{669}' => digit(character, '\u{660}'),
            '\u{6f0}'..='\u{6f9}' => digit(character, '\u{6f0}'),
            other => other,
        })
        .filter(|character| !is_mark(*character))
        .flat_map(char::to_uppercase)
        .take(4 * MAX_CHARACTERS)
        .collect::<Vec<_>>()
        .into_iter()
}

/// The marks of kana that make other sounds of them.
fn is_voice(character: char) -> bool {
    matches!(character, '\u{3099}' | '\u{309a}')
}

/// Marks that may be left out, and the stretcher of Arabic.
fn is_mark(character: char) -> bool {
    matches!(character, '\u{300}'..='\u{36f}' | '\u{640}' | '\u{64b}'..='\u{65f}' | '\u{670}')
}

fn digit(character: char, zero: char) -> char {
    let value = u32::from(character).saturating_sub(u32::from(zero));
    char::from_digit(value, 10).unwrap_or(character)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> Keys {
        Keys::new([&b"a secret of the tests, long enough"[..]])
    }

    #[test]
    fn a_picture_is_read_in_any_case_and_script() {
        for read in [
            "ACE27K",
            "ace27k",
            " a c e 2 7 k ",
            "ACE-27K",
            "ａｃｅ２７ｋ",
            "АСЕ27К",
            "асе27к",
            "ACF27K",
            "ACEZ7K",
            "acez7k",
            "ace٢٧k",
            "Áce27k",
        ] {
            assert_eq!(of_picture(read), "ACE27K", "{read}");
        }
        assert_eq!(of_picture("  -- "), "");
    }

    #[test]
    fn words_are_taken_generously() {
        for (given, meant) in [
            ("Fifteen", "15"),
            (" 15 ", "15"),
            ("015", "15"),
            ("１５", "15"),
            ("١٥", "15"),
            ("۱۵", "15"),
            ("fünfzehn", "15"),
            ("FUENFZEHN", "15"),
            ("quinze.", "15"),
            ("dix-sept", "17"),
            ("Dix sept", "17"),
            ("п'ятнадцять", "15"),
            ("П’ЯТНАДЦЯТЬ", "15"),
            ("piętnaście", "15"),
            ("pietnascie", "15"),
            ("十五", "15"),
            ("خمسة عشر", "15"),
            ("0", "0"),
            ("000", "0"),
            ("Élan", "elan"),
            ("Straße", "strasse"),
            ("Wróbel", "wrobel"),
            ("żółw", "zolw"),
            ("؟ تُفَّاحَة", "تفاحه"),
            ("la mesa", "mesa"),
            ("The Lion", "lion"),
            ("l’armoire", "armoire"),
            ("L'ascia", "ascia"),
            (" Ein  Hund", "hund"),
            ("het paard", "paard"),
            ("o cavalo", "cavalo"),
            ("الكلب", "كلب"),
            ("the 15", "15"),
            ("a", "a"),
            ("la", "la"),
            ("ال", "ال"),
            ("", ""),
            ("?!", ""),
        ] {
            assert_eq!(in_words(given), meant, "{given}");
        }
        assert_ne!(in_words("か"), in_words("が"));
        for (given, shown) in [
            ("日曜", "日曜日"),
            ("にちようび", "日曜日"),
            ("猫", "ねこ"),
            ("ネコ", "ねこ"),
            ("周日", "星期日"),
            ("星期天", "星期日"),
            ("馬", "马"),
            ("gray", "grey"),
            ("sock", "socks"),
            ("Tues.", "Tuesday"),
            ("segunda", "segunda-feira"),
            ("2ª feira", "segunda-feira"),
            ("Sonnabend", "Samstag"),
            ("el guante", "guantes"),
        ] {
            assert_eq!(in_words(given), in_words(shown), "{given}");
        }
        assert_ne!(in_words("日曜"), in_words("月曜"));
    }

    #[test]
    fn what_is_too_long_is_nothing() {
        assert_eq!(in_words(&"a".repeat(MAX_CHARACTERS)).len(), MAX_CHARACTERS);
        assert_eq!(in_words(&"a".repeat(MAX_CHARACTERS + 1)), "");
        assert_eq!(of_picture(&"A".repeat(1_000_000)), "");
        // One character that stands for eighteen.
        assert!(in_words(&"ﷺ".repeat(MAX_CHARACTERS)).chars().count() <= 4 * MAX_CHARACTERS);
    }

    #[test]
    fn only_the_right_answer_of_the_right_kind_under_the_right_key_is_right() {
        let keys = keys();
        let detail = keys.detail(Kind::Image, "ACE27K", [7; SALT]).unwrap();
        assert!(keys.is_right(Kind::Image, "ACE27K", &detail));
        assert!(!keys.is_right(Kind::Question, "ACE27K", &detail));
        assert!(!keys.is_right(Kind::Image, "ACE27", &detail));
        assert!(!keys.is_right(Kind::Image, "", &detail));
        let other = keys.detail(Kind::Image, "ACE27K", [8; SALT]).unwrap();
        assert_ne!(
            detail[SALT..],
            other[SALT..],
            "the same answer looks like another"
        );
        let strangers = Keys::new([&b"another secret, also long"[..]]);
        assert!(!strangers.is_right(Kind::Image, "ACE27K", &detail));
        let rotated = Keys::new([
            &b"another secret, also long"[..],
            b"a secret of the tests, long enough",
        ]);
        assert!(rotated.is_right(Kind::Image, "ACE27K", &detail));
        let none = Keys::new([]);
        assert!(none.detail(Kind::Image, "ACE27K", [7; SALT]).is_none());
    }

    #[test]
    fn a_cut_or_empty_memory_is_of_no_answer() {
        let keys = keys();
        let empty = keys.detail(Kind::Question, "", [7; SALT]).unwrap();
        assert!(!keys.is_right(Kind::Question, "", &empty));
        let mut detail = keys.detail(Kind::Question, "bread", [7; SALT]).unwrap();
        while detail.pop().is_some() {
            assert!(!keys.is_right(Kind::Question, "bread", &detail));
        }
    }

    proptest! {
        #[test]
        fn folding_twice_changes_nothing(text in "\\PC{0,80}") {
            let words = in_words(&text);
            if words.chars().count() <= MAX_CHARACTERS {
                prop_assert_eq!(in_words(&words), words);
            }
            let picture = of_picture(&text);
            if picture.chars().count() <= MAX_CHARACTERS {
                prop_assert_eq!(of_picture(&picture), picture);
            }
        }
    }
}
