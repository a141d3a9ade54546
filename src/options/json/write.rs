//! Strings and numbers in the form of RFC 8785.

/// The most significant digits of a number that a double tells from every other such number.
const MAX_DIGITS: usize = 15;

/// Writes a string from its JSON text, quotation marks included.
pub(super) fn string(text: &[u8], escaped: bool, out: &mut Vec<u8>) {
    if escaped {
        let mut content = Vec::with_capacity(text.len());
        let read = unescape(&text[1..text.len() - 1], &mut content);
        read.expect("the reader has read the string");
        quote(&content, out);
    } else {
        // The only characters with an escape in the canonical form are those that need one.
        out.extend_from_slice(text);
    }
}

/// Writes a string from its characters (RFC 8785, 3.2.2.2).
pub(super) fn quote(mut content: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    loop {
        let needs_escape = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
        let plain = content.iter().position(needs_escape);
        out.extend_from_slice(&content[..plain.unwrap_or(content.len())]);
        let Some(at) = plain else { break };
        let short = match content[at] {
            0x08 => b'b',
            b'\t' => b't',
            b'\n' => b'n',
            0x0c => b'f',
            b'\r' => b'r',
            byte @ (b'"' | b'\\') => byte,
            control => {
                let digit = |value: u8| b"0123456789abcdef"[usize::from(value)];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(control >> 4), digit(control & 15)]);
                content = &content[at + 1..];
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
        content = &content[at + 1..];
    }
    out.push(b'"');
}

/// Writes the characters of a string's JSON text, which stands between its quotation marks. `None`
/// if an escape is none of JSON, or is half a character.
pub(super) fn unescape(mut text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    while let Some(at) = text.iter().position(|byte| *byte == b'\\') {
        out.extend_from_slice(&text[..at]);
        let byte = match *text.get(at + 1)? {
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'b' => 0x08,
            b't' => b'\t',
            b'n' => b'\n',
            b'f' => 0x0c,
            b'r' => b'\r',
            b'u' => {
                let (character, rest) = code_units(&text[at..])?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                text = rest;
                continue;
            }
            _ => return None,
        };
        out.push(byte);
        text = &text[at + 2..];
    }
    out.extend_from_slice(text);
    Some(())
}

/// The character that one or two escaped code units of UTF-16 are, and the text behind them.
fn code_units(text: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = code_unit(text)?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, rest));
    }
    let (second, rest) = code_unit(rest)?;
    let low = (0xdc00..0xe000).contains(&second).then_some(second)?;
    let character = 0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00);
    Some((char::from_u32(character)?, rest))
}

fn code_unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.strip_prefix(b"\\u")?.split_at_checked(4)?;
    let value = digits.iter().try_fold(0, |value, digit| {
        Some(value << 4 | char::from(*digit).to_digit(16)?)
    })?;
    Some((value, rest))
}

/// Writes a number as ECMAScript does (RFC 8785, 3.2.2.3). `None` if the number has more than 15
/// significant digits or is near the limits of a double: a double may then not tell it from another.
///
/// The shortest digits that name the double of any other number are the digits of the number itself,
/// so no double is needed.
pub(super) fn number(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let magnitude = text.strip_prefix(b"-").unwrap_or(text);
    let end = magnitude
        .iter()
        .position(|byte| matches!(byte, b'e' | b'E'));
    let (mantissa, exponent) = match end {
        Some(end) => (&magnitude[..end], exponent(&magnitude[end + 1..])),
        None => (magnitude, 0),
    };
    let whole = mantissa.iter().position(|byte| *byte == b'.');
    let whole = whole.unwrap_or(mantissa.len());
    let mut digits = [0; MAX_DIGITS];
    // The digits so far without the zeros at their end, and with them.
    let (mut significant, mut count) = (0, 0);
    // The digits of the mantissa before the first that is not zero.
    let mut zeros = 0_i64;
    for digit in mantissa.iter().filter(|byte| **byte != b'.') {
        if *digit != b'0' {
            *digits.get_mut(count)? = *digit;
            significant = count + 1;
        } else if significant == 0 {
            zeros += 1;
            continue;
        } else if let Some(place) = digits.get_mut(count) {
            *place = b'0';
        }
        count += 1;
    }
    let digits = &digits[..significant];
    if digits.is_empty() {
        out.push(b'0');
        return Some(());
    }
    // The number is 0.DIGITS times ten to the power of `point`.
    let point = i64::try_from(whole).ok()? - zeros;
    let point = point.checked_add(exponent)?;
    let is_far_from_limits = (-289..=290).contains(&point) || (point == 291 && digits == b"1");
    if !is_far_from_limits {
        return None;
    }
    if text.len() > magnitude.len() {
        out.push(b'-');
    }
    decimal(digits, point, out);
    Some(())
}

/// An exponent, or the one that is furthest from zero: the length of no text can make up for it.
fn exponent(text: &[u8]) -> i64 {
    let (sign, digits) = match text {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] | digits => (1, digits),
    };
    let value = digits.iter().fold(0_i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
    });
    sign * value
}

/// Writes 0.DIGITS times ten to the power of `point` (ECMA-262, `Number::toString`).
fn decimal(digits: &[u8], point: i64, out: &mut Vec<u8>) {
    let length = digits.len();
    let place = usize::try_from(point).unwrap_or(0);
    match point {
        1..=21 if place >= length => {
            out.extend_from_slice(digits);
            out.resize(out.len() + place - length, b'0');
        }
        1..=21 => {
            out.extend_from_slice(&digits[..place]);
            out.push(b'.');
            out.extend_from_slice(&digits[place..]);
        }
        -5..=0 => {
            out.extend_from_slice(b"0.");
            let zeros = usize::try_from(-point).unwrap_or(0);
            out.resize(out.len() + zeros, b'0');
            out.extend_from_slice(digits);
        }
        _ => {
            out.push(digits[0]);
            if length > 1 {
                out.push(b'.');
                out.extend_from_slice(&digits[1..]);
            }
            let exponent = point - 1;
            out.extend_from_slice(if exponent.is_negative() { b"e-" } else { b"e+" });
            out.extend_from_slice(exponent.unsigned_abs().to_string().as_bytes());
        }
    }
}
