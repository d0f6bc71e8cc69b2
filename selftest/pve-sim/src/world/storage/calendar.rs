//! Dates in UTC, the simulated node's time zone.

/// A point in time, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// The year.
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    /// 0 to 23.
    pub hour: i64,
    /// 0 to 59.
    pub minute: i64,
    /// 0 to 59.
    pub second: i64,
    days: i64,
}

impl Date {
    /// Takes seconds since 1970 apart.
    pub fn at(unix: i64) -> Date {
        let (days, rest) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
        // Eras of 400 years that begin on the first of March make leap days the last of a year.
        let z = days + 719_468;
        let (era, of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Date {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: of_year - (153 * shifted + 2) / 5 + 1,
            hour: rest / 3_600,
            minute: rest / 60 % 60,
            second: rest % 60,
            days,
        }
    }

    /// `2026-11-22 03:15:29`, as logs have it.
    pub fn log(self) -> String {
        format!("{} {:02}:{:02}:{:02}", self.day_text(), self.hour, self.minute, self.second)
    }

    /// `2026_11_22-03_15_29`, as the names of backups have it.
    pub fn name(self) -> String {
        format!(
            "{:04}_{:02}_{:02}-{:02}_{:02}_{:02}",
            self.year, self.month, self.day, self.hour, self.minute, self.second
        )
    }

    /// `2026-11-22T03:15:29Z`, as a Proxmox Backup Server has it.
    pub fn rfc3339(self) -> String {
        format!("{}T{:02}:{:02}:{:02}Z", self.day_text(), self.hour, self.minute, self.second)
    }

    /// `Sun Nov 22 03:21:27 2026`.
    pub fn ctime(self) -> String {
        format!(
            "{} {} {:2} {:02}:{:02}:{:02} {}",
            self.weekday_name(),
            self.month_name(),
            self.day,
            self.hour,
            self.minute,
            self.second,
            self.year
        )
    }

    /// `Nov 22 03:05:24`, as the system log has it.
    pub fn syslog(self) -> String {
        format!(
            "{} {:02} {:02}:{:02}:{:02}",
            self.month_name(),
            self.day,
            self.hour,
            self.minute,
            self.second
        )
    }

    fn day_text(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    fn month_name(self) -> &'static str {
        const NAMES: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        usize::try_from(self.month - 1).ok().and_then(|i| NAMES.get(i).copied()).unwrap_or("Jan")
    }

    fn weekday_name(self) -> &'static str {
        const NAMES: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
        usize::try_from(self.weekday()).ok().and_then(|i| NAMES.get(i).copied()).unwrap_or("Mon")
    }

    /// Monday is 0.
    fn weekday(self) -> i64 {
        // The first day of 1970 was a Thursday.
        (self.days + 3).rem_euclid(7)
    }

    /// Year and number of the ISO week.
    pub fn iso_week(self) -> (i64, i64) {
        // The week belongs to the year its Thursday is in.
        let thursday = self.days - self.weekday() + 3;
        let year = Date::at(thursday * 86_400).year;
        (year, (thursday - Date::first_day(year)) / 7 + 1)
    }

    /// Days from 1970 to the first of January of a year.
    fn first_day(year: i64) -> i64 {
        let before = year - 1;
        let leaps = before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
        365 * (year - 1_970) + leaps - 477
    }

    /// Reads [`Date::name`] back to seconds since 1970.
    pub fn parse_name(text: &str) -> Option<i64> {
        let shape = "dddd_dd_dd-dd_dd_dd";
        let fits = text.len() == shape.len()
            && text
                .bytes()
                .zip(shape.bytes())
                .all(|(b, s)| if s == b'd' { b.is_ascii_digit() } else { b == s });
        if !fits {
            return None;
        }
        let part = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
        if !(1970..=9999).contains(&year) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let of_day = hour * 3_600 + minute * 60 + second;
        let first = Date::first_day(year);
        (first..first + 366)
            .map(|days| days * 86_400 + of_day)
            .find(|unix| *unix >= 0 && Date::at(*unix).name() == text)
            .filter(|_| month <= 12 && day <= 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_times() {
        let d = Date::at(1_795_317_329);
        assert_eq!(d.log(), "2026-11-22 03:15:29");
        assert_eq!(d.name(), "2026_11_22-03_15_29");
        assert_eq!(d.rfc3339(), "2026-11-22T03:15:29Z");
        assert_eq!(Date::at(1_795_317_687).ctime(), "Sun Nov 22 03:21:27 2026");
        assert_eq!(d.syslog(), "Nov 22 03:15:29");
        assert_eq!(Date::parse_name("2026_11_22-03_15_29"), Some(1_795_317_329));
        assert_eq!(Date::parse_name("2024_02_29-00_00_00"), Some(1_709_164_800));
    }

    #[test]
    fn weeks_at_the_turn_of_the_year() {
        let week = |text: &str| Date::at(Date::parse_name(text).unwrap()).iso_week();
        assert_eq!(week("2021_01_03-00_00_00"), (2020, 53));
        assert_eq!(week("2021_01_04-00_00_00"), (2021, 1));
        assert_eq!(week("2024_12_30-23_59_59"), (2025, 1));
        assert_eq!(week("2016_01_01-00_00_00"), (2015, 53));
        assert_eq!(week("1970_01_01-00_00_00"), (1970, 1));
    }

    #[test]
    fn hostile_names() {
        for bad in [
            "",
            "2023_02_29-00_00_00",
            "2026_13_01-00_00_00",
            "2026_11_22-24_00_00",
            "2026_11_22-03_15_2",
            "2026_11_22-03_15_29x",
            "2026_1ä_22-03_15_2",
            "0000_01_01-00_00_00",
        ] {
            assert_eq!(Date::parse_name(bad), None, "{bad}");
        }
    }
}
