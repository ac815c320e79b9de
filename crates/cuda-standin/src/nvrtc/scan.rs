//! Rewrites preprocessed CUDA C into C++: finds the kernels, and turns declarations of shared
//! memory into calls of the shim.

/// The text for the C++ compiler, and the kernels in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) text: String,
    /// Names of the `extern "C" __global__` functions, in order.
    pub(super) kernels: Vec<String>,
}

/// The range of a token in the text.
#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    text: &'a str,
    start: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
    }
}

/// Rewrites a preprocessed source: without comments, but with the `#` lines that say where other
/// lines come from.
///
/// # Errors
///
/// A message for the program's log, if shared memory is declared in a way that is not supported.
pub(super) fn rewrite(source: &str) -> Result<Unit, String> {
    let source = &unrolled(source);
    let tokens = tokens(source);
    let mut kernels: Vec<String> = Vec::new();
    let mut text = String::with_capacity(source.len());
    let mut copied = 0;
    // For each open brace: whether functions in it are `extern "C"`, and whether it belongs to a
    // function.
    let mut braces: Vec<(bool, bool)> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => braces.push(kind(&tokens[..at], &braces)),
            "}" => _ = braces.pop(),
            "__global__" => {
                let linked = braces.last().is_some_and(|b| b.0) || says_extern_c(&tokens[..at]);
                if let Some(name) =
                    kernel_name(&tokens[at..]).filter(|n| linked && !kernels.iter().any(|k| k == n))
                {
                    kernels.push(name.to_owned());
                }
            }
            "__shared__" => {
                let inside = braces.iter().any(|b| b.1);
                let length =
                    tokens[at..].iter().position(|t| t.text == ";").ok_or("__shared__ without its `;`")?;
                let declaration = &tokens[at + 1..at + length];
                let before = at
                    .checked_sub(1)
                    .and_then(|i| tokens.get(i))
                    .filter(|t| ["extern", "static"].contains(&t.text));
                let dynamic = before.is_some_and(|t| t.text == "extern");
                let end = tokens[at + length].end();
                let number = token.start;
                let new = declare(source, declaration, dynamic, number)?;
                if !inside {
                    return Err(format!(
                        "__shared__ outside of a function: `{}`",
                        source[token.start..end].trim()
                    ));
                }
                text.push_str(&source[copied..before.unwrap_or(token).start]);
                text.push_str(&new);
                // Lines keep their numbers.
                text.extend(source[token.start..end].chars().filter(|c| *c == '\n'));
                copied = end;
                at += length;
            }
            _ => {}
        }
        at += 1;
    }
    text.push_str(&source[copied..]);
    Ok(Unit { text, kernels })
}

/// `#pragma unroll` in GCC's syntax. Without a number the whole loop is unrolled, which GCC cannot
/// express.
fn unrolled(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    for line in source.split_inclusive('\n') {
        match line.trim().strip_prefix("#pragma unroll") {
            Some(count) => {
                let count = count.trim_matches(|c: char| !c.is_ascii_digit());
                let count = if count.is_empty() { "16" } else { count };
                text.push_str(&format!("#pragma GCC unroll {count}\n"));
            }
            None => text.push_str(line),
        }
    }
    text
}

/// What a brace opens, judged by the tokens before it.
fn kind(before: &[Token<'_>], braces: &[(bool, bool)]) -> (bool, bool) {
    let outer = braces.last().copied().unwrap_or((false, false));
    let linkage = before.len() >= 2
        && before[before.len() - 2].text == "extern"
        && before[before.len() - 1].text.starts_with('"');
    let namespace = before.iter().rev().take(2).any(|t| t.text == "namespace");
    match (linkage, namespace) {
        (true, _) => (true, outer.1),
        (false, true) => outer,
        (false, false) => (false, true),
    }
}

/// Whether the declaration with these tokens starts with `extern "C"`.
fn says_extern_c(before: &[Token<'_>]) -> bool {
    let start = before.iter().rposition(|t| [";", "{", "}"].contains(&t.text)).map_or(0, |i| i + 1);
    before[start..].windows(2).any(|w| w[0].text == "extern" && w[1].text == "\"C\"")
}

/// The name of the function that is declared from here on.
fn kernel_name<'a>(tokens: &[Token<'a>]) -> Option<&'a str> {
    let mut name = None;
    let mut at = 0;
    loop {
        let token = tokens.get(at)?;
        match token.text {
            "__launch_bounds__" | "__attribute__" | "alignas" => {
                let mut depth = 0;
                loop {
                    at += 1;
                    match tokens.get(at)?.text {
                        "(" => depth += 1,
                        ")" => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            "(" => return name,
            "{" | "}" | ";" => return None,
            text if token.is_name() => name = Some(text),
            _ => {}
        }
        at += 1;
    }
}

/// The C++ for a declaration of shared memory, given the tokens between `__shared__` and `;`.
fn declare(source: &str, tokens: &[Token<'_>], dynamic: bool, number: usize) -> Result<String, String> {
    let [first, .., last] = tokens else { return Err("__shared__ declares nothing".to_owned()) };
    let shown = || source[first.start..last.end()].to_owned();
    let mut pieces: Vec<&[Token<'_>]> = Vec::new();
    let (mut depth, mut from) = (0, 0);
    for (i, token) in tokens.iter().enumerate() {
        match token.text {
            "(" | "[" | "<" => depth += 1,
            ")" | "]" | ">" => depth -= 1,
            "=" => return Err(format!("shared memory cannot be initialised: `{}`", shown())),
            "," if depth == 0 => {
                pieces.push(&tokens[from..i]);
                from = i + 1;
            }
            _ => {}
        }
    }
    pieces.push(&tokens[from..]);
    let mut base = None;
    let mut text = String::new();
    for (i, piece) in pieces.iter().enumerate() {
        let name = declared(piece).ok_or_else(|| format!("which name does this declare? `{}`", shown()))?;
        let before = &source[piece[0].start..piece[name].start];
        let base = *base.get_or_insert(before);
        let after = piece.last().map_or("", |end| &source[piece[name].end()..end.end()]);
        let name = piece[name].text;
        let id = format!("{number}_{i}");
        text += &if dynamic {
            format!(
                "typedef {base} standin_type_{id}; standin_type_{id} *{name} = (standin_type_{id} *)standin::frame->dynamic; "
            )
        } else {
            format!(
                "typedef {base} standin_type_{id} {after}; struct standin_tag_{id} {{}}; \
                 standin_type_{id} &{name} = standin::shared<standin_type_{id}, standin_tag_{id}>(); "
            )
        };
    }
    // On one line, regardless of the original lines, which follow it.
    Ok(text.replace('\n', " "))
}

/// The position of the name in a declarator: before the first `[`, or at the end.
fn declared(piece: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0;
    let end = piece.iter().position(|t| {
        match t.text {
            "(" | "<" => depth += 1,
            ")" | ">" => depth -= 1,
            _ => {}
        }
        t.text == "[" && depth == 0
    });
    let at = end.unwrap_or(piece.len()).checked_sub(1)?;
    piece[at].is_name().then_some(at)
}

/// Names, numbers, literals and single characters; no white space, and no lines that start with
/// `#`.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    let mut fresh = true;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let rest = &bytes[at..];
        let skip = |wanted: fn(u8) -> bool| rest.iter().position(|b| !wanted(*b)).unwrap_or(rest.len());
        if byte == b'#' && fresh {
            at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            continue;
        }
        if byte.is_ascii_whitespace() {
            fresh |= byte == b'\n';
            at += 1;
            continue;
        }
        fresh = false;
        at += match byte {
            b'"' | b'\'' => literal(rest),
            b if b.is_ascii_alphanumeric() || b == b'_' => skip(|b| b.is_ascii_alphanumeric() || b == b'_'),
            b if b.is_ascii() => 1,
            _ => skip(|b| !b.is_ascii()),
        };
        found.push(Token { text: &source[start..at], start });
    }
    found
}

/// The length in bytes of the string or character that starts here.
fn literal(bytes: &[u8]) -> usize {
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        at += if byte == b'\\' && at + 1 < bytes.len() { 2 } else { 1 };
        if byte == bytes[0] {
            break;
        }
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_kernels(source: &str, expected: &[&str]) {
        assert_eq!(rewrite(source).unwrap().kernels, expected, "{source}");
    }

    #[test]
    fn kernels_are_found_however_they_are_written() {
        check_kernels("extern \"C\" __global__ void a(int n) {}", &["a"]);
        check_kernels("extern \"C\" __global__ void __launch_bounds__(256, (2)) a(float *x) {}", &["a"]);
        check_kernels("extern \"C\" __launch_bounds__(256) __global__ void a(float *x) {}", &["a"]);
        check_kernels(
            "extern \"C\" {\n__global__ void a();\n__global__ void a() { if (1) {} }\n__global__ void b() {}\n}",
            &["a", "b"],
        );
        check_kernels(
            "namespace n { extern \"C\" { __global__ void a() {} } } __global__ void mangled() {}",
            &["a"],
        );
        check_kernels(
            "const char *s = \"extern \\\"C\\\" __global__ void no() {\"; extern \"C\" __global__ void a() {}",
            &["a"],
        );
        check_kernels("# 1 \"it's a file\"\nextern \"C\" __global__ void a() {}", &["a"]);
    }

    fn check_shared(declaration: &str, parts: &[&str]) {
        let source = format!("void f() {{\n{declaration}\nint after;\n}}");
        let text = rewrite(&source).unwrap().text;
        for part in parts {
            assert!(text.contains(part), "{part} in {text}");
        }
        let line = |s: &str| s.lines().position(|l| l.contains("after"));
        assert_eq!(line(&text), line(&source), "{text}");
        assert!(!text.contains("__shared__"), "{text}");
    }

    #[test]
    fn shared_arrays_become_references() {
        check_shared(
            "__shared__ float a[2][3];",
            &["typedef float  standin_type_", " [2][3];", "&a = standin::shared<"],
        );
        check_shared("static __shared__ float a;", &["\ntypedef float ", "&a = "]);
        check_shared(
            "__shared__ __align__(16) float a[4],\n b[N<3>::v];",
            &["typedef __align__(16) float ", "&a =", "[N<3>::v]; ", "&b ="],
        );
        check_shared(
            "extern __shared__ unsigned char s[];",
            &["\ntypedef unsigned char ", "*s = (", "frame->dynamic"],
        );
        check_shared("__shared__ Pair<float, int> p[3];", &["typedef Pair<float, int> ", "&p ="]);
    }

    #[test]
    fn loops_are_unrolled() {
        let text = rewrite("# 1 \"a\"\n#pragma unroll\nfor\n #pragma unroll 4\nfor\n#pragma unroll (2)\nfor")
            .unwrap()
            .text;
        let expected = ["16", "4", "2"].map(|n| format!("#pragma GCC unroll {n}\nfor"));
        assert_eq!(text, format!("# 1 \"a\"\n{}", expected.join("\n")));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (source, part) in [
            ("__shared__ float a[3];", "outside of a function"),
            ("void f() { __shared__ float a = 3; }", "cannot be initialised"),
            ("void f() { __shared__ ; }", "declares nothing"),
            ("void f() { __shared__ float a[3]", "without its"),
        ] {
            let message = rewrite(source).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
