//! Every kind in both directions. The samples are put together at run time, so that nobody's
//! scanner, ours included, finds any in this repository.

use super::*;
use crate::digest::Digest;

/// Letters and digits that look drawn at random, the same in every run.
fn drawn(alphabet: &str, length: usize) -> String {
    let alphabet = alphabet.as_bytes();
    let blocks = (0_u32..).flat_map(|block| *Digest::of(&block.to_le_bytes()).as_bytes());
    let letter = |byte: u8| char::from(alphabet[usize::from(byte) % alphabet.len()]);
    blocks.take(length).map(letter).collect()
}

const WORD: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

fn word(length: usize) -> String {
    drawn(WORD, length)
}

fn rules(text: &str) -> Vec<String> {
    let findings = find_secrets(text.as_bytes());
    findings.into_iter().map(|finding| finding.rule).collect()
}

#[test]
fn what_looks_like_a_secret_is_found() {
    let hex = |length| drawn("0123456789abcdef", length);
    let key = |what: &str| format!("-----BEGIN {what}PRIVATE KEY-----");
    let jwt = format!("eyJ{}.eyJ{}.{}", word(30), word(60), word(43));
    let assigned = "password or token";
    for (text, rule) in [
        (format!("{}\n{}\n", key("RSA "), word(64)), "private key"),
        (
            format!("{}\n{}\n", key("OPENSSH "), word(64)),
            "private key",
        ),
        (format!("{}\\n{}\\n", key(""), word(64)), "private key"),
        (
            format!(
                "{}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES\n\n{}",
                key("EC "),
                word(64)
            ),
            "private key",
        ),
        (
            format!(
                "AGE-SECRET-{}1{}",
                "KEY-",
                drawn("023456789ACDEFGHJKLMNPQRSTUVWXYZ", 58)
            ),
            "age private key",
        ),
        (
            format!("shk{}{}_{}_{}", "1_", hex(16), hex(64), hex(8)),
            "Statehold key or invite",
        ),
        (
            format!("shi{}{}_{}_{}", "1_", hex(16), hex(64), hex(8)),
            "Statehold key or invite",
        ),
        (
            format!(
                "id = AK{}{}",
                "IA",
                drawn("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16)
            ),
            "AWS access key id",
        ),
        (
            format!("aws_secret_{}_key = {}", "access", word(40)),
            "AWS secret access key",
        ),
        (
            format!("{{\"Secret{}Key\": \"{}\"}}", "Access", word(40)),
            "AWS secret access key",
        ),
        (
            format!("https://gh{}{}@github.com", "p_", word(36)),
            "GitHub token",
        ),
        (format!("text\\ngh{}{}", "s_", word(36)), "GitHub token"),
        (format!("github_{}_{}", "pat", word(82)), "GitHub token"),
        (format!("gl{}-{}", "pat", word(20)), "GitLab token"),
        (format!("xox{}-{}", "b", word(50)), "Slack token"),
        (
            format!(
                "https://hooks.slack.com/{}/T{}/B{}/{}",
                "services",
                "024BE7LH1",
                "024BE7LH2",
                word(24)
            ),
            "Slack webhook",
        ),
        (format!("sk_{}_{}", "live", word(24)), "Stripe key"),
        (format!("key: AI{}{}", "za", word(35)), "Google API key"),
        (format!("GOC{}-{}", "SPX", word(28)), "Google OAuth secret"),
        (format!("sk-{}-api03-{}", "ant", word(95)), "Anthropic key"),
        (format!("sk-{}-{}", "proj", word(100)), "OpenAI key"),
        (format!("sk-{}", word(48)), "OpenAI key"),
        (format!("sk-or-{}-{}", "v1", hex(64)), "OpenRouter key"),
        (
            format!(
                "h{}{}",
                "f_",
                drawn("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", 34)
            ),
            "Hugging Face token",
        ),
        (format!("np{}{}", "m_", word(36)), "npm token"),
        (
            format!("//registry.example.org/:_auth{}={}", "Token", hex(36)),
            "package registry credential",
        ),
        (
            format!("pypi-AgEIcHlwaS5{}{}", "vcmc", word(70)),
            "PyPI token",
        ),
        (
            format!("S{}.{}.{}", "G", word(22), word(43)),
            "SendGrid key",
        ),
        (
            format!(
                "DefaultEndpointsProtocol=https;Account{}={}==",
                "Key",
                word(86)
            ),
            "Azure storage key",
        ),
        (format!("Authorization: Bearer {jwt}"), "JSON web token"),
        (format!("{{\"id_token\":\"{jwt}\"}}"), "JSON web token"),
        (
            format!("postgres://app:{}@db.internal:5432/x", word(16)),
            "password in an address",
        ),
        (format!("password = \"{}\"", word(16)), assigned),
        (format!("  DB_PASSWORD: '{}!'", word(14)), assigned),
        (format!("API_KEY={}", word(32)), assigned),
        (format!("export SERVICE_TOKEN={}", hex(40)), assigned),
        (
            format!("{{\\\"api_key\\\": \\\"{}\\\"}}", word(24)),
            assigned,
        ),
        (format!("client_secret => \"{}\"", word(24)), assigned),
    ] {
        assert_eq!(rules(&text), [rule], "{text}");
        // Wherever it stands, and in whatever text.
        let inside = format!("a line\nanother one ü\n{text}\nand more\n");
        let expected = Finding {
            rule: rule.into(),
            line: 3,
        };
        assert_eq!(find_secrets(inside.as_bytes()), [expected], "{text}");
    }
}

#[test]
fn placeholders_and_look_alikes_are_passed_over() {
    let hex = |length| drawn("0123456789abcdef", length);
    for text in [
        // Shapes that hold nothing.
        format!("-----BEGIN {}KEY-----\n...\n", "PRIVATE "),
        format!("-----BEGIN PUBLIC KEY-----\n{}\n", word(64)),
        format!("-----BEGIN CERTIFICATE-----\n{}\n", word(64)),
        format!("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{} me@host", word(44)),
        format!("AK{}IOSFODNN7EXAMPLE", "IA"),
        format!("gh{}{}", "p_", "x".repeat(36)),
        format!("gh{}<your token here>", "p_"),
        format!(
            "sk-{}-api03-your-key-goes-here-and-is-long-enough-to-match-it",
            "ant"
        ),
        format!("sk-{}", "a".repeat(48)),
        format!("sk_{}_{}", "test", word(24)),
        "shk1_<id>_<secret>_<check>".into(),
        format!("task-{} and risk-{}", word(10), word(10)),
        format!("a{}{}b", "ghp_", word(36)),
        // Credentials' names with something else.
        "password = \"correct horse battery staple\"".into(),
        "password: changeme-please-123456".into(),
        "API_KEY=your-api-key-goes-here-0001".into(),
        "api_key = os.environ[\"SERVICE_API_KEY_2\"]".into(),
        "token: ${{ secrets.DEPLOY_TOKEN_2024_PROD }}".into(),
        "const token = generateToken2048BitsLong();".into(),
        "let secret = config.secrets.primary2.value3;".into(),
        "\"input_tokens\": 10243, \"max_tokens\": 4096".into(),
        "password_hash: 5f4dcc3b5aa765d61d8327deb882cf99".into(),
        format!("next_page_token: \"{}\"", word(40)),
        format!("\"csrf_token\": \"{}\"", word(40)),
        format!(
            "token: \"{}-{}-{}-{}-{}\"",
            hex(8),
            hex(4),
            hex(4),
            hex(4),
            hex(12)
        ),
        "secret: /run/secrets/service-2024-01-password".into(),
        "password: \"Passw\"".into(),
        "postgres://user:password@localhost/db".into(),
        "https://user:${PASSWORD_2024}@example.org".into(),
        "see http://[::1]:8080/a:b@c".into(),
        // Digests, ids and tokens that nobody names as credentials.
        format!("sha256:{}", hex(64)),
        format!("\"uuid\":\"{}\",\"commit\":\"{}\"", hex(32), hex(40)),
        format!(
            "see eyJ{}.eyJ{}.{} in the log",
            word(30),
            word(60),
            word(43)
        ),
        format!("integrity sha512-{}==", word(86)),
    ] {
        assert_eq!(rules(&text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn pieces_give_what_the_whole_gives() {
    let mut text = String::new();
    for number in 0..400 {
        text.push_str(&"just a line of text with nothing in it\n".repeat(number % 7));
        if number % 40 == 7 {
            text.push_str(&format!("gl{}-{}\n", "pat", word(20 + number % 9)));
        }
    }
    let whole = find_secrets(text.as_bytes());
    assert_eq!(whole.len(), 10);
    for length in [1, 7, 1000, 3 * 1024, 8 * 1024] {
        let mut search = Search::default();
        for piece in text.as_bytes().chunks(length) {
            search.add(piece);
        }
        assert_eq!(search.finish(), whole, "{length}");
    }
    let line = whole[0].line;
    let at = text
        .lines()
        .position(|line| line.starts_with("gl"))
        .unwrap();
    assert_eq!(line, at as u64 + 1);
}

#[test]
fn other_files_are_not_searched_and_lists_are_bounded() {
    let token = format!("gl{}-{}\n", "pat", word(20));
    let binary = [&b"\x7fELF\0\0"[..], token.as_bytes()].concat();
    assert_eq!(find_secrets(&binary), []);
    let findings = find_secrets(token.repeat(1000).as_bytes());
    assert_eq!(findings.len(), SECRET_FINDINGS_MAX);
    assert_eq!(findings[0].line, 1);
}

#[test]
fn a_finding_never_holds_what_was_found() {
    let secret = word(20);
    let findings = find_secrets(format!("gl{}-{secret}", "pat").as_bytes());
    let told = serde_json::to_string(&findings).unwrap();
    assert_eq!(told, r#"[{"rule":"GitLab token","line":1}]"#);
}
