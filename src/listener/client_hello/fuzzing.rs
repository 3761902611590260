//! What must hold of any bytes taken for a `ClientHello`.

use super::{ClientHello, MAXIMUM, Parsed, WIRE, assemble, ja4::Ja4};

/// # Panics
/// When it does not hold.
pub fn client_hello(bytes: &[u8]) {
    match assemble(bytes) {
        Parsed::Needs(more) => {
            assert!(more > 0, "waiting for nothing");
            assert!(bytes.len().saturating_add(more) <= WIRE, "unbounded");
        }
        Parsed::Complete(message) => {
            assert!(message.len() <= MAXIMUM);
            // What was enough is never too little.
            let longer = [bytes, b"what follows"].concat();
            let again = assemble(&longer);
            assert_eq!(again, Parsed::Complete(message.clone()));
            read(&message);
        }
        Parsed::Invalid | Parsed::TooLarge => {
            let longer = [bytes, b"what follows"].concat();
            let again = assemble(&longer);
            assert!(
                matches!(again, Parsed::Invalid | Parsed::TooLarge),
                "what is refused stays so"
            );
        }
    }
    // As a message that was put together already.
    read(bytes);
}

fn read(message: &[u8]) {
    let Some(hello) = ClientHello::parse(message) else {
        return;
    };
    let inside = |part: &[u8]| assert!(part.len() < message.len(), "made of nothing");
    hello.extensions().for_each(|(_, content)| inside(content));
    hello.protocols().for_each(inside);
    hello.identities().for_each(inside);
    hello.server_name().into_iter().for_each(inside);
    hello.ticket().into_iter().for_each(inside);
    assert!(hello.ciphers().count() > 0);
    assert!(hello.signature_algorithms().count() <= message.len());
    let print = Ja4::of(&hello);
    let text = print.as_str();
    assert_eq!(text.len(), 36, "{text}");
    let parts: Vec<&str> = text.split('_').map(str::trim).collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    assert_eq!(lengths, [10, 12, 12], "{text}");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    assert!(text.bytes().all(plain), "{text}");
}
