//! Header maps as guests see them: pseudo headers first, then the fields.
//!
//! `:authority :path :method :scheme` and `:status` are fields of the heads, not headers. Whatever a guest writes is checked
//! here, so that a head can always be sent: RFC 9110 §5.5 for values, §7.1 and §9.1 for what is in the request line.

use bytes::Bytes;
use outrigger_http::{HeaderName, Headers, Method, RequestHead, ResponseHead, Scheme, valid_value};

use crate::interner::Interner;
use crate::plugin::Limits;
use crate::status::Status;

/// A map to read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MapRef<'a> {
    Request(&'a RequestHead),
    Response(&'a ResponseHead),
    Fields(&'a Headers),
}

/// A map to change.
#[derive(Debug)]
pub(crate) enum MapMut<'a> {
    Request(&'a mut RequestHead),
    Response(&'a mut ResponseHead),
    Fields(&'a mut Headers),
}

/// A value that was found. Small copies of what isn't stored as bytes.
#[derive(Debug)]
pub(crate) enum Found {
    Bytes(Bytes),
    Static(&'static str),
    Status([u8; 3]),
}

impl std::ops::Deref for Found {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Found::Bytes(bytes) => bytes,
            Found::Static(text) => text.as_bytes(),
            Found::Status(digits) => digits,
        }
    }
}

fn digits(status: u16) -> [u8; 3] {
    let digit = |value: u16| b'0' + u8::try_from(value % 10).unwrap_or(0);
    [digit(status / 100), digit(status / 10), digit(status)]
}

/// Fields that Envoy keeps in one entry (measured): what is added is joined with a comma, as lists may be
/// (RFC 9110 §5.3).
const JOINED: [HeaderName; 16] = [
    HeaderName::ACCEPT,
    HeaderName::ACCEPT_ENCODING,
    HeaderName::AUTHORIZATION,
    HeaderName::CACHE_CONTROL,
    HeaderName::CONTENT_TYPE,
    HeaderName::EXPECT,
    HeaderName::GRPC_TIMEOUT,
    HeaderName::IF_NONE_MATCH,
    HeaderName::ORIGIN,
    HeaderName::REFERER,
    HeaderName::TE,
    HeaderName::USER_AGENT,
    HeaderName::VIA,
    HeaderName::X_FORWARDED_FOR,
    HeaderName::X_FORWARDED_PROTO,
    HeaderName::X_REQUEST_ID,
];

fn joined(fields: &Headers, name: &HeaderName, more: Option<&[u8]>) -> Bytes {
    let values: Vec<&[u8]> = fields.get_all(name).map(|value| &value[..]).chain(more).collect();
    values.join(&b',').into()
}

/// How many entries a request's map has.
pub(crate) fn request_entries(head: &RequestHead) -> u32 {
    let pseudo = 2 + u32::from(!head.authority.is_empty()) + u32::from(!head.path.is_empty());
    u32::try_from(head.headers.len()).unwrap_or(u32::MAX).saturating_add(pseudo)
}

impl<'a> MapRef<'a> {
    fn fields(self) -> &'a Headers {
        match self {
            MapRef::Request(head) => &head.headers,
            MapRef::Response(head) => &head.headers,
            MapRef::Fields(fields) => fields,
        }
    }

    /// Calls `each` with every entry, pseudo headers first, in Envoy's order.
    pub(crate) fn for_each(self, each: &mut dyn FnMut(&[u8], &[u8])) {
        match self {
            MapRef::Request(head) => head.for_each_entry(each),
            MapRef::Response(head) => head.for_each_entry(each),
            MapRef::Fields(fields) => fields.iter().for_each(|(name, value)| each(name.as_bytes(), value)),
        }
    }

    /// Number of entries and sum of the lengths of their names and values.
    pub(crate) fn size(self) -> (usize, usize) {
        let (mut entries, mut bytes) = (0, 0);
        self.for_each(&mut |key, value| {
            entries += 1;
            bytes += key.len() + value.len();
        });
        (entries, bytes)
    }

    /// The first value of a name of any case.
    pub(crate) fn get(self, name: &[u8]) -> Option<Found> {
        let mut buffer = [0; 64];
        let long;
        let name = if name.len() <= buffer.len() {
            let lower = &mut buffer[..name.len()];
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            &*lower
        } else {
            long = name.to_ascii_lowercase();
            &long
        };
        if matches!(name.first(), Some(b':' | b'h'))
            && let Some(found) = self.pseudo(name)
        {
            return Some(found);
        }
        let (entry, value) = self.fields().iter().find(|(entry, _)| entry.as_bytes() == name)?;
        if JOINED.contains(entry) && self.fields().get_all(entry).nth(1).is_some() {
            return Some(Found::Bytes(joined(self.fields(), entry, None)));
        }
        Some(Found::Bytes(value.clone()))
    }

    fn pseudo(self, name: &[u8]) -> Option<Found> {
        let present = |bytes: &Bytes| (!bytes.is_empty()).then(|| Found::Bytes(bytes.clone()));
        match (self, name) {
            (MapRef::Request(head), b":authority" | b"host") => present(&head.authority),
            (MapRef::Request(head), b":path") => present(&head.path),
            (MapRef::Request(head), b":method") => Some(match &head.method {
                Method::Get => Found::Static("GET"),
                Method::Post => Found::Static("POST"),
                method => Found::Bytes(Bytes::copy_from_slice(method.as_bytes())),
            }),
            (MapRef::Request(head), b":scheme") => Some(Found::Static(head.scheme.as_str())),
            (MapRef::Response(head), b":status") => Some(Found::Status(digits(head.status))),
            _ => None,
        }
    }
}

impl MapMut<'_> {
    fn fields(&mut self) -> &mut Headers {
        match self {
            MapMut::Request(head) => &mut head.headers,
            MapMut::Response(head) => &mut head.headers,
            MapMut::Fields(fields) => fields,
        }
    }

    /// Replaces all entries of a name by one.
    pub(crate) fn replace(
        &mut self,
        name: &[u8],
        value: &[u8],
        limits: &Limits,
        interner: &mut Interner,
    ) -> Result<(), Status> {
        if self.is_pseudo(name) {
            return self.set_pseudo(name, value, limits);
        }
        let name = interner.name(name).map_err(|_| Status::BadArgument)?;
        let fields = self.fields();
        check_growth(fields, &name, value, limits, || !fields.contains(&name))?;
        fields.try_set(name, interner.value(value)).map_err(|_| Status::BadArgument)
    }

    /// Adds an entry. A pseudo header has one value: Envoy joins with a comma, which only a path or authority survives.
    pub(crate) fn add(
        &mut self,
        name: &[u8],
        value: &[u8],
        limits: &Limits,
        interner: &mut Interner,
    ) -> Result<(), Status> {
        if self.is_pseudo(name) {
            let current = match self {
                MapMut::Request(head) => MapRef::Request(head).get(name),
                MapMut::Response(head) => MapRef::Response(head).get(name),
                MapMut::Fields(_) => None,
            };
            return match current {
                Some(current) => self.set_pseudo(name, &[&*current, b",", value].concat(), limits),
                None => self.set_pseudo(name, value, limits),
            };
        }
        let name = interner.name(name).map_err(|_| Status::BadArgument)?;
        if name == HeaderName::CONTENT_LENGTH {
            // Two lengths would make the message's end a matter of opinion.
            return self.replace(name.as_bytes(), value, limits, interner);
        }
        let fields = self.fields();
        let joins = JOINED.contains(&name) && fields.contains(&name);
        if joins {
            check_size(fields, &name, value, limits)?;
            let value = joined(fields, &name, Some(value));
            return fields.try_set(name, value).map_err(|_| Status::BadArgument);
        }
        check_growth(fields, &name, value, limits, || true)?;
        fields.try_append(name, interner.value(value)).map_err(|_| Status::BadArgument)
    }

    /// Removes all entries of a name. Pseudo headers cannot be missing from a head and stay.
    pub(crate) fn remove(&mut self, name: &[u8]) {
        if let Ok(name) = HeaderName::from_bytes(name) {
            self.fields().remove(&name);
        }
    }

    /// Replaces the whole map, or leaves it as it is where an entry is invalid. Pseudo headers that aren't given stay.
    pub(crate) fn set_all(
        &mut self,
        pairs: &[(&[u8], &[u8])],
        limits: &Limits,
        interner: &mut Interner,
    ) -> Result<(), Status> {
        match self {
            MapMut::Request(head) => {
                let mut new = RequestHead { headers: Headers::with_capacity(pairs.len()), ..head.clone() };
                MapMut::Request(&mut new).fill(pairs, limits, interner)?;
                **head = new;
            }
            MapMut::Response(head) => {
                let mut new = ResponseHead { headers: Headers::with_capacity(pairs.len()), ..head.clone() };
                MapMut::Response(&mut new).fill(pairs, limits, interner)?;
                **head = new;
            }
            MapMut::Fields(fields) => {
                let mut new = Headers::with_capacity(pairs.len());
                MapMut::Fields(&mut new).fill(pairs, limits, interner)?;
                **fields = new;
            }
        }
        Ok(())
    }

    fn fill(&mut self, pairs: &[(&[u8], &[u8])], limits: &Limits, interner: &mut Interner) -> Result<(), Status> {
        for (name, value) in pairs {
            if self.is_pseudo(name) {
                self.set_pseudo(name, value, limits)?;
            } else {
                self.add(name, value, limits, interner)?;
            }
        }
        Ok(())
    }

    fn is_pseudo(&self, name: &[u8]) -> bool {
        match name.first() {
            Some(b':') => true,
            Some(b'h' | b'H') => matches!(self, MapMut::Request(_)) && name.eq_ignore_ascii_case(b"host"),
            _ => false,
        }
    }

    fn set_pseudo(&mut self, name: &[u8], value: &[u8], limits: &Limits) -> Result<(), Status> {
        if value.len() > limits.header_bytes {
            return Err(Status::BadArgument);
        }
        match (self, name) {
            (MapMut::Request(head), b":method") => {
                head.method = Method::from_bytes(value).ok_or(Status::BadArgument)?;
            }
            (MapMut::Request(head), b":path") if is_path(value) => head.path = Bytes::copy_from_slice(value),
            (MapMut::Request(head), b":scheme") => {
                head.scheme = match value {
                    b"http" => Scheme::Http,
                    b"https" => Scheme::Https,
                    _ => return Err(Status::BadArgument),
                };
            }
            (MapMut::Request(head), name) if name == b":authority" || name.eq_ignore_ascii_case(b"host") => {
                if !is_authority(value) {
                    return Err(Status::BadArgument);
                }
                head.authority = Bytes::copy_from_slice(value);
            }
            (MapMut::Response(head), b":status") => head.status = final_status(value).ok_or(Status::BadArgument)?,
            _ => return Err(Status::BadArgument),
        }
        Ok(())
    }
}

/// Entries that a check of the whole map's size is made from: below that, small ones cannot pass any sensible limit.
const ENTRIES_UNCHECKED: usize = 32;
const ENTRY_BYTES_UNCHECKED: usize = 512;

/// `adds`: whether there will be one more entry.
fn check_growth(
    fields: &Headers,
    name: &HeaderName,
    value: &[u8],
    limits: &Limits,
    adds: impl FnOnce() -> bool,
) -> Result<(), Status> {
    let grown = name.as_bytes().len().saturating_add(value.len());
    if fields.len() < ENTRIES_UNCHECKED.min(limits.header_entries) && grown <= ENTRY_BYTES_UNCHECKED {
        return Ok(());
    }
    let full = fields.len() >= limits.header_entries && adds();
    if full { Err(Status::BadArgument) } else { check_size(fields, name, value, limits) }
}

fn check_size(fields: &Headers, name: &HeaderName, value: &[u8], limits: &Limits) -> Result<(), Status> {
    let grown = name.as_bytes().len().saturating_add(value.len());
    let bytes = fields.byte_size().saturating_add(grown);
    if bytes > limits.header_bytes { Err(Status::BadArgument) } else { Ok(()) }
}

/// Origin form or `*`, without anything that ends a request line (RFC 9112 §3).
fn is_path(value: &[u8]) -> bool {
    let visible = value.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
    visible && value.len() <= 64 << 10 && (value.first() == Some(&b'/') || value == b"*")
}

/// Host and port, without anything that belongs to another part of a URI (RFC 3986 §3.2).
fn is_authority(value: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\' | b'"');
    !value.is_empty() && value.len() <= 1024 && value.iter().all(allowed)
}

/// 200..=599: what an answer can end with.
fn final_status(value: &[u8]) -> Option<u16> {
    if value.len() != 3 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let status = value.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    (200..=599).contains(&status).then_some(status)
}

/// Fields for a message that a guest makes up (a local reply, a call): valid ones, without what frames a message.
pub(crate) fn plain_fields(pairs: &[(&[u8], &[u8])]) -> Result<Headers, Status> {
    let mut fields = Headers::with_capacity(pairs.len());
    for (name, value) in pairs {
        if name.first() == Some(&b':') {
            continue;
        }
        let name = HeaderName::from_bytes(name).map_err(|_| Status::BadArgument)?;
        if name == HeaderName::CONTENT_LENGTH || name == HeaderName::HOST || name.is_hop_by_hop() {
            continue;
        }
        if !valid_value(value) {
            return Err(Status::BadArgument);
        }
        fields.append(name, Bytes::copy_from_slice(value));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RequestHead {
        let mut head = RequestHead { authority: Bytes::from_static(b"a.example"), ..RequestHead::default() };
        head.headers.append(HeaderName::ACCEPT, Bytes::from_static(b"*/*"));
        head
    }

    fn names(map: MapRef<'_>) -> Vec<String> {
        let mut names = Vec::new();
        map.for_each(&mut |name, _| names.push(String::from_utf8_lossy(name).into_owned()));
        names
    }

    #[test]
    fn pseudo_headers_come_first() {
        let head = request();
        assert_eq!(names(MapRef::Request(&head)), [":authority", ":path", ":method", ":scheme", "accept"]);
        assert_eq!(request_entries(&head), 5);
        assert_eq!(names(MapRef::Response(&ResponseHead::new(204))), [":status"]);
        let get =
            |name: &[u8]| MapRef::Request(&head).get(name).map(|found| String::from_utf8_lossy(&found).into_owned());
        for (name, expected) in
            [(":authority", "a.example"), ("Host", "a.example"), (":path", "/"), (":method", "GET"), ("ACCEPT", "*/*")]
        {
            assert_eq!(get(name.as_bytes()).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(get(b":status"), None);
        assert_eq!(&*MapRef::Response(&ResponseHead::new(503)).get(b":status").expect("there"), b"503");
    }

    #[test]
    fn what_would_split_or_break_a_message_is_refused() {
        let limits = Limits::default();
        let check = |name: &str, value: &str, good: bool| {
            let (mut head, before) = (request(), request());
            let result =
                MapMut::Request(&mut head).replace(name.as_bytes(), value.as_bytes(), &limits, &mut Interner::new());
            assert_eq!(result.is_ok(), good, "{name}: {value:?}");
            assert_eq!(head != before, good, "{name}: {value:?}");
        };
        check(":method", "PUT", true);
        check(":method", "P UT", false);
        check(":path", "/x?y", true);
        check(":path", "/x y", false);
        check(":path", "/x\r\nhost: b", false);
        check(":path", "http://b/", false);
        check(":path", "", false);
        check(":scheme", "https", true);
        check(":scheme", "ftp", false);
        check(":authority", "b.example:80", true);
        check("host", "b.example", true);
        check("host", "b.example/x", false);
        check("host", "", false);
        check(":status", "200", false);
        check(":protocol", "websocket", false);
        check("x-a", "1", true);
        check("x-a", "1\r\nx-b: 2", false);
        check("x-a", "1\0", false);
        check("x a", "1", false);
        check("", "1", false);
        for (value, good) in
            [("204", true), ("99", false), ("100", false), ("600", false), ("2000", false), ("2x0", false)]
        {
            let mut head = ResponseHead::new(200);
            let result =
                MapMut::Response(&mut head).replace(b":status", value.as_bytes(), &limits, &mut Interner::new());
            assert_eq!(result.is_ok(), good, "{value}");
        }
    }

    #[test]
    fn maps_are_bounded() {
        let limits = Limits { header_entries: 4, header_bytes: 2000, ..Limits::default() };
        let mut head = request();
        let mut map = MapMut::Request(&mut head);
        for name in ["a", "b", "c"] {
            assert_eq!(map.add(name.as_bytes(), b"1", &limits, &mut Interner::new()), Ok(()));
        }
        assert_eq!(map.add(b"d", b"1", &limits, &mut Interner::new()), Err(Status::BadArgument));
        assert_eq!(map.replace(b"c", b"2", &limits, &mut Interner::new()), Ok(()), "replacing does not grow");
        assert_eq!(map.replace(b"c", &[b'x'; 2000], &limits, &mut Interner::new()), Err(Status::BadArgument));
    }

    #[test]
    fn set_all_is_all_or_nothing() {
        let limits = Limits::default();
        let mut head = request();
        let bad: [(&[u8], &[u8]); 2] = [(b"x", b"1"), (b"y", b"\n")];
        assert_eq!(MapMut::Request(&mut head).set_all(&bad, &limits, &mut Interner::new()), Err(Status::BadArgument));
        assert_eq!(head, request());
        let good: [(&[u8], &[u8]); 3] = [(b":path", b"/new"), (b"x", b"1"), (b"x", b"2")];
        assert_eq!(MapMut::Request(&mut head).set_all(&good, &limits, &mut Interner::new()), Ok(()));
        assert_eq!(names(MapRef::Request(&head)), [":authority", ":path", ":method", ":scheme", "x", "x"]);
        assert_eq!(head.path, "/new");
    }

    #[test]
    fn lists_are_one_value() {
        let limits = Limits::default();
        let mut head = request();
        head.headers.append(HeaderName::ACCEPT, Bytes::from_static(b"a"));
        assert_eq!(&*MapRef::Request(&head).get(b"accept").expect("there"), b"*/*,a");
        MapMut::Request(&mut head).add(b"Accept", b"b", &limits, &mut Interner::new()).expect("valid");
        assert_eq!(head.headers.get_all(&HeaderName::ACCEPT).collect::<Vec<_>>(), ["*/*,a,b"]);
        for value in [b"1", b"2"] {
            MapMut::Request(&mut head).add(b"cookie", value, &limits, &mut Interner::new()).expect("valid");
        }
        assert_eq!(head.headers.get_all(&HeaderName::COOKIE).count(), 2);
        assert_eq!(&*MapRef::Request(&head).get(b"cookie").expect("there"), b"1");
    }

    #[test]
    fn lengths_are_never_doubled_and_made_up_messages_have_no_framing() {
        let limits = Limits::default();
        let mut head = ResponseHead::new(200);
        let mut map = MapMut::Response(&mut head);
        map.add(b"content-length", b"1", &limits, &mut Interner::new()).expect("valid");
        map.add(b"Content-Length", b"2", &limits, &mut Interner::new()).expect("valid");
        assert_eq!(head.headers.get_all(&HeaderName::CONTENT_LENGTH).collect::<Vec<_>>(), ["2"]);
        let pairs: [(&[u8], &[u8]); 4] =
            [(b":status", b"1"), (b"content-length", b"9"), (b"Transfer-Encoding", b"chunked"), (b"x", b"1")];
        assert_eq!(plain_fields(&pairs).expect("valid").len(), 1);
        assert_eq!(plain_fields(&[(b"x", b"a\nb")]), Err(Status::BadArgument));
    }
}
