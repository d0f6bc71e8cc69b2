//! What `writ run` sends: a script from a file, or a program with its arguments. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;

use protocol::Interpreter;
use protocol::job::MAX_SCRIPT;
use protocol::text::{SafeText, TextError, printable};

/// Why there is no script to send.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// Nothing in it.
    #[error("the script is empty: nothing was sent")]
    Empty,
    /// Too long.
    #[error("the script is longer than 256 KiB: have it fetch what it needs, or send files with `writ cp`")]
    TooLong,
    /// An argument that no order can carry.
    #[error("argument {place} of the script cannot be signed: {why}")]
    Argument {
        /// From 1.
        place: usize,
        /// What is wrong with it.
        why: TextError,
    },
    /// An argument that is no text.
    #[error("argument {0} of the script is not UTF-8, and an order holds text only: put it into the script")]
    NotText(usize),
    /// A program name that `exec` would take for an option.
    #[error("'{0}' is no program: write its name or path first, then its arguments")]
    Program(String),
    /// A first line that would need more than a program.
    #[error(
        "the script's first line ({line}) asks for more than one plain absolute path: name what reads the script with --interpreter"
    )]
    FirstLine {
        /// Made safe.
        line: String,
    },
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The script.
    pub bytes: Vec<u8>,
    /// What reads it.
    pub interpreter: Interpreter,
    /// Its arguments.
    pub args: Vec<SafeText>,
    /// The script in a few words, made safe.
    pub shown: String,
}

/// One word as any POSIX shell reads it: nothing in it means anything.
pub fn quote(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            // Out of the quotes, one escaped quote, and back in.
            b'\'' => quoted.extend_from_slice(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// Words as one line of a POSIX shell.
pub fn quote_all<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> Vec<u8> {
    let quoted: Vec<Vec<u8>> = words.into_iter().map(quote).collect();
    quoted.join(&b' ')
}

impl Script {
    /// A program and its arguments, replacing the shell. Nothing is expanded: the program gets exactly these.
    /// `salt` is new and random each time: the hub reads the script's hash in the order, and could otherwise
    /// try out what a short argument is.
    pub fn from_words(words: &[OsString], salt: [u8; 16]) -> Result<Self, ScriptError> {
        let program = words.first().ok_or(ScriptError::Empty)?;
        // Shells differ in whether `exec` takes options, and none has a program of such a name.
        if program.is_empty() || program.as_bytes().starts_with(b"-") {
            return Err(ScriptError::Program(printable(&program.to_string_lossy())));
        }
        let line = quote_all(words.iter().map(OsString::as_os_str));
        let salt: String = salt.iter().map(|byte| format!("{byte:02x}")).collect();
        let bytes = [b"exec ".as_slice(), &line, b"\n# ", salt.as_bytes(), b"\n"].concat();
        let shown = words.iter().map(|word| show_word(word)).collect::<Vec<_>>().join(" ");
        Ok(Self { bytes: within_limits(bytes)?, interpreter: default_interpreter(), args: Vec::new(), shown })
    }

    /// A script as it is, with arguments. `called` is what it is called here.
    pub fn from_bytes(
        bytes: Vec<u8>,
        interpreter: Option<Interpreter>,
        args: &[OsString],
        called: &str,
    ) -> Result<Self, ScriptError> {
        let bytes = within_limits(bytes)?;
        let interpreter = match interpreter {
            Some(interpreter) => interpreter,
            None => first_line(&bytes)?.unwrap_or_else(default_interpreter),
        };
        let mut texts = Vec::new();
        for (i, arg) in args.iter().enumerate() {
            let text = arg.to_str().ok_or(ScriptError::NotText(i + 1))?;
            texts.push(text.parse().map_err(|why| ScriptError::Argument { place: i + 1, why })?);
        }
        let words = std::iter::once(OsStr::new(called)).chain(args.iter().map(OsString::as_os_str));
        let shown = words.map(show_word).collect::<Vec<_>>().join(" ");
        Ok(Self { bytes, interpreter, args: texts, shown })
    }
}

fn default_interpreter() -> Interpreter {
    "/bin/sh".parse().expect("the path follows the rule")
}

fn within_limits(bytes: Vec<u8>) -> Result<Vec<u8>, ScriptError> {
    match bytes.len() {
        0 => Err(ScriptError::Empty),
        1..=MAX_SCRIPT => Ok(bytes),
        _ => Err(ScriptError::TooLong),
    }
}

/// The interpreter of a `#!` line; none without one. With options, or by way of `env`, the line means more
/// than an order can say, and guessing would run the script by another program.
fn first_line(bytes: &[u8]) -> Result<Option<Interpreter>, ScriptError> {
    let Some(rest) = bytes.strip_prefix(b"#!") else { return Ok(None) };
    let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    let odd = || {
        let line = printable(&format!("#!{text}").chars().take(80).collect::<String>());
        ScriptError::FirstLine { line }
    };
    text.trim_matches([' ', '\t']).parse().map(Some).map_err(|_| odd())
}

fn show_word(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "_@%+=:,./-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return printable(&text);
    }
    printable(&String::from_utf8_lossy(&quote(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    /// How a POSIX shell splits a line into words (XCU 2.2, 2.3), as far as quoting goes. Whatever it would
    /// expand or act on outside quotes is a failure of the test.
    fn shell_words(line: &[u8]) -> Vec<Vec<u8>> {
        let (mut words, mut word, mut rest) = (Vec::new(), None::<Vec<u8>>, line);
        while let [byte, tail @ ..] = rest {
            rest = tail;
            match byte {
                b' ' => words.extend(word.take()),
                b'\\' => {
                    let [escaped, tail @ ..] = rest else { panic!("a backslash at the end") };
                    word.get_or_insert_default().push(*escaped);
                    rest = tail;
                }
                b'\'' => {
                    let end = rest.iter().position(|byte| *byte == b'\'').expect("an open quote");
                    word.get_or_insert_default().extend_from_slice(&rest[..end]);
                    rest = &rest[end + 1..];
                }
                other => panic!("{} stands outside quotes", char::from(*other)),
            }
        }
        words.extend(word);
        words
    }

    #[test]
    fn a_shell_sees_the_same_words() {
        // A small generator of its own, so that a failure can be repeated.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below).unwrap()
        };
        let nasty = b"'\"\\$`!*?[]{}()<>|&;#~ \t\n\r=%^-aZ0\x01\x1b\x7f\x80\xc3\xa9\xff";
        for _ in 0..2000 {
            let words: Vec<OsString> = (0..1 + next(5))
                .map(|_| OsString::from_vec((0..next(12)).map(|_| nasty[next(nasty.len() as u64)]).collect()))
                .collect();
            let line = quote_all(words.iter().map(OsString::as_os_str));
            let seen: Vec<OsString> = shell_words(&line).into_iter().map(OsString::from_vec).collect();
            assert_eq!(seen, words, "{}", String::from_utf8_lossy(&line));
        }
    }

    fn words(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_program_with_arguments_replaces_the_shell() {
        let from_words = |words: &[OsString]| Script::from_words(words, [0x0a; 16]);
        let script = from_words(&words(&["echo", "it's", "$HOME", ""])).unwrap();
        let wanted = format!("exec 'echo' 'it'\\''s' '$HOME' ''\n# {}\n", "0a".repeat(16));
        assert_eq!(String::from_utf8_lossy(&script.bytes), wanted);
        assert_eq!((script.interpreter.as_str(), script.args.len()), ("/bin/sh", 0));
        assert_eq!(script.shown, "echo 'it'\\''s' '$HOME' ''");
        let evil = from_words(&words(&["echo", "a\u{1b}[2J\n"])).unwrap();
        assert_eq!(evil.shown, "echo 'a?[2J?'");
        for bad in [vec![], words(&[""]), words(&["-c", "id"]), words(&["--help"])] {
            assert!(from_words(&bad).is_err(), "{bad:?}");
        }
        let long = OsString::from("x".repeat(MAX_SCRIPT));
        assert_eq!(from_words(&[long]), Err(ScriptError::TooLong));
    }

    #[test]
    fn the_first_line_names_the_interpreter_only_when_it_is_plain() {
        let made = |text: &str| Script::from_bytes(text.as_bytes().to_vec(), None, &[], "x");
        for (text, path) in [
            ("echo hi", "/bin/sh"),
            ("#!/bin/bash\necho", "/bin/bash"),
            ("#! /usr/bin/python3.11 \nprint(1)", "/usr/bin/python3.11"),
            ("#!/bin/dash", "/bin/dash"),
            ("# !/bin/bash\n", "/bin/sh"),
        ] {
            assert_eq!(made(text).unwrap().interpreter.as_str(), path, "{text}");
        }
        for odd in [
            "#!/usr/bin/env python3\n",
            "#!/bin/sh -e\n",
            "#!\n",
            "#!bash\n",
            "#!/bin/../bin/sh\n",
            "#!/bin/sh\r\n",
            "#!/bin/\u{1b}[2Jsh\n",
        ] {
            let error = made(odd).unwrap_err().to_string();
            assert!(error.contains("--interpreter") && !error.contains('\u{1b}'), "{odd:?}: {error}");
        }
        let named = Script::from_bytes(
            b"#!/usr/bin/env python3\n".to_vec(),
            Some("/usr/bin/python3".parse().unwrap()),
            &[],
            "x",
        );
        assert_eq!(named.unwrap().interpreter.as_str(), "/usr/bin/python3");
    }

    #[test]
    fn arguments_are_signed_as_text() {
        let made = |args: &[OsString]| Script::from_bytes(b"echo".to_vec(), None, args, "up date.sh");
        let script = made(&words(&["--all", "two words"])).unwrap();
        assert_eq!(script.args.iter().map(SafeText::as_str).collect::<Vec<_>>(), ["--all", "two words"]);
        assert_eq!(script.shown, "'up date.sh' --all 'two words'");
        assert!(matches!(made(&words(&["a", "b\nc"])), Err(ScriptError::Argument { place: 2, .. })));
        assert_eq!(made(&[OsString::from_vec(vec![0xff])]), Err(ScriptError::NotText(1)));
        assert_eq!(Script::from_bytes(vec![], None, &[], "x"), Err(ScriptError::Empty));
        assert_eq!(Script::from_bytes(vec![b'x'; MAX_SCRIPT + 1], None, &[], "x"), Err(ScriptError::TooLong));
        assert!(Script::from_bytes(vec![b'x'; MAX_SCRIPT], None, &[], "x").is_ok());
    }
}
