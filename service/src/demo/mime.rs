//! As much of MIME as the demonstration's own mails need.

use data_encoding::BASE64_MIME_PERMISSIVE;

/// The first part of this type, such as `text/html`, in a mail with plain line feeds.
pub(super) fn part(raw: &str, wanted: &str) -> Option<String> {
    let (head, body) = raw.split_once("\n\n")?;
    let kind = header(head, "content-type").unwrap_or_else(|| "text/plain".to_owned());
    if let Some((_, boundary)) = kind.split_once("boundary=") {
        let boundary = format!("--{}", boundary.split(';').next()?.trim().trim_matches('"'));
        return body.split(&boundary).skip(1).find_map(|piece| part(piece.trim_start_matches('\n'), wanted));
    }
    let bytes = match header(head, "content-transfer-encoding").as_deref() {
        Some("quoted-printable") => quoted_printable(body),
        Some("base64") => BASE64_MIME_PERMISSIVE.decode(body.as_bytes()).ok()?,
        _ => body.as_bytes().to_owned(),
    };
    kind.starts_with(wanted).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// A header, lines that go on joined.
fn header(head: &str, name: &str) -> Option<String> {
    let joined = head.replace("\n ", " ").replace("\n\t", " ");
    let mut fields = joined.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(field, value)| field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
}

fn quoted_printable(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'=', [b'\n', tail @ ..]) => tail,
            (b'=', [high @ (b'0'..=b'9' | b'A'..=b'F'), low @ (b'0'..=b'9' | b'A'..=b'F'), tail @ ..]) => {
                bytes.push(digit(*high) << 4 | digit(*low));
                tail
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    bytes
}

const fn digit(hex: u8) -> u8 {
    if hex <= b'9' { hex - b'0' } else { hex - b'A' + 10 }
}

#[cfg(test)]
mod tests {
    use lettre::message::{Mailbox, MultiPart};

    use super::*;

    #[test]
    fn both_parts_of_a_mail_come_back_as_they_were_written() {
        let text = format!("Grüße = {}\nende", "lang ".repeat(60));
        for (text, html) in
            [(text.as_str(), "<p>schön</p>"), ("plain", "<p>plain</p>"), ("日本語", "<b>鍵</b>")]
        {
            let address: Mailbox = "Shop <keys@shop.example>".parse().expect("an address");
            let mail = lettre::Message::builder()
                .from(address.clone())
                .to(address)
                .multipart(MultiPart::alternative_plain_html(text.to_owned(), html.to_owned()))
                .expect("a mail");
            let raw = String::from_utf8(mail.formatted()).expect("text").replace("\r\n", "\n");
            assert_eq!(part(&raw, "text/plain").as_deref().map(str::trim_end), Some(text), "{raw}");
            assert_eq!(part(&raw, "text/html").as_deref().map(str::trim_end), Some(html), "{raw}");
            assert_eq!(part(&raw, "image/png"), None);
        }
    }
}
