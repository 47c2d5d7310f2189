//! Values of headers that nearly every request gets, without making them each time.

use std::cell::RefCell;
use std::net::IpAddr;

use bytes::Bytes;

/// Numbers below this have their text ready.
const READY: usize = 1000;
/// Addresses whose text a worker keeps.
const ADDRESSES: usize = 64;

/// `000001002…999`.
static DIGITS: [u8; READY * 3] = digits();

const fn digits() -> [u8; READY * 3] {
    let mut all = [b'0'; READY * 3];
    let mut number = 0;
    while number < READY {
        all[number * 3] += (number / 100) as u8;
        all[number * 3 + 1] += (number / 10 % 10) as u8;
        all[number * 3 + 2] += (number % 10) as u8;
        number += 1;
    }
    all
}

/// A number in decimal.
pub(crate) fn decimal(mut number: u64) -> Bytes {
    if let Some(three) = usize::try_from(number).ok().and_then(|at| DIGITS.as_chunks::<3>().0.get(at)) {
        let zeros = 2 - usize::from(number >= 10) - usize::from(number >= 100);
        return Bytes::from_static(&three[zeros..]);
    }
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    while number > 0 {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    Bytes::copy_from_slice(&digits[at..])
}

/// Texts of addresses: few clients ask often.
#[derive(Debug)]
pub(crate) struct AddressTexts(RefCell<[Option<(IpAddr, Bytes)>; ADDRESSES]>);

impl Default for AddressTexts {
    fn default() -> AddressTexts {
        AddressTexts(RefCell::new([const { None }; ADDRESSES]))
    }
}

impl AddressTexts {
    pub(crate) fn get(&self, address: IpAddr) -> Bytes {
        let last = match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        let place = &mut self.0.borrow_mut()[usize::from(last) % ADDRESSES];
        match place {
            Some((known, text)) if *known == address => text.clone(),
            _ => {
                let text = Bytes::from(address.to_string());
                *place = Some((address, text.clone()));
                text
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressTexts, decimal};

    #[test]
    fn numbers() {
        let ends = [0, 9, 10, 99, 100, 999, 1000, 1001, 65_536, u64::MAX];
        for number in ends.into_iter().chain(0..1100) {
            assert_eq!(decimal(number), number.to_string().as_bytes());
        }
    }

    #[test]
    fn addresses_that_share_a_place() {
        let texts = AddressTexts::default();
        for text in ["10.0.0.1", "10.0.0.65", "10.0.0.1", "10.0.1.1", "::1", "2001:db8::1", "::ffff:10.0.0.1"] {
            let address = text.parse().expect("an address");
            assert_eq!((texts.get(address), texts.get(address)), (text.into(), text.into()));
        }
    }
}
