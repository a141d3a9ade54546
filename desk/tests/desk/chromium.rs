//! Chromium, by its driver.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use fantoccini::{Client, ClientBuilder, Locator};
use http::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// How long a page may take.
const WITHIN: Duration = Duration::from_secs(20);

/// A directory that is removed when `Profile` is dropped.
pub(crate) struct Profile(PathBuf);

impl Drop for Profile {
    fn drop(&mut self) {
        // Processes of Chromium write a while longer than the one that the driver ends.
        for _ in 0..40 {
            if std::fs::remove_dir_all(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A driver, which ends with the test, and the address on which it listens.
pub(crate) async fn driver() -> (Child, u16) {
    let mut command = Command::new("chromedriver");
    command.arg("--port=0").kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let hint = "chromedriver runs; `scripts/test --install` installs it";
    let mut child = command.spawn().expect(hint);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    loop {
        let line = lines
            .next_line()
            .await
            .unwrap()
            .expect("a line with the port");
        // "ChromeDriver was started successfully on port 40123."
        if let Some((_, port)) = line.rsplit_once("successfully on port ") {
            let port = port.trim_end_matches('.').parse().unwrap();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (child, port);
        }
    }
}

pub(crate) async fn chromium(port: u16) -> (Client, Profile) {
    let profile = std::env::temp_dir().join(format!("desk-{}", std::process::id()));
    let options = json!({
        "binary": "/usr/bin/chromium",
        "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--force-device-scale-factor=1", "--hide-scrollbars",
            format!("--user-data-dir={}", profile.display()),
        ],
    });
    let mut capabilities = Map::new();
    capabilities.insert("goog:chromeOptions".to_owned(), options);
    capabilities.insert("goog:loggingPrefs".to_owned(), json!({ "browser": "ALL" }));
    let client = ClientBuilder::new(HttpConnector::new())
        .capabilities(capabilities)
        .connect(&format!("http://127.0.0.1:{port}"))
        .await
        .unwrap();
    (client, Profile(profile))
}

/// A command of the protocol `DevTools`, as the driver passes it on.
#[derive(Debug)]
struct DevTools(Value);

impl fantoccini::wd::WebDriverCompatibleCommand for DevTools {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/goog/cdp/execute",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.0.to_string()))
    }
}

/// A browser before the desk of an application.
pub(crate) struct Browser {
    pub(crate) client: Client,
    pub(crate) base: String,
}

impl Browser {
    pub(crate) async fn open(&self, query: &str) {
        self.client
            .goto(&format!("{}{query}", self.base))
            .await
            .unwrap();
    }

    /// Waits for the page with this title. What is found while a page is replaced may be gone at once.
    pub(crate) async fn is_at(&self, title: &str) {
        let began = Instant::now();
        loop {
            let found = match self.client.find(Locator::Css("h1")).await {
                Ok(heading) => heading.text().await.unwrap_or_default(),
                Err(error) => error.to_string(),
            };
            if found == title {
                return;
            }
            assert!(began.elapsed() < WITHIN, "{title}: {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn text(&self) -> String {
        self.client
            .find(Locator::Css("main"))
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    pub(crate) async fn click(&self, css: &str) {
        self.client
            .find(Locator::Css(css))
            .await
            .unwrap()
            .click()
            .await
            .unwrap();
    }

    pub(crate) async fn link(&self, text: &str) {
        self.client
            .find(Locator::LinkText(text))
            .await
            .unwrap()
            .click()
            .await
            .unwrap();
    }

    pub(crate) async fn write(&self, css: &str, text: &str) {
        let field = self.client.find(Locator::Css(css)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Sends keys to whatever has the focus.
    pub(crate) async fn keys(&self, keys: &str) {
        self.client
            .active_element()
            .await
            .unwrap()
            .send_keys(keys)
            .await
            .unwrap();
    }

    /// The class of what has the focus.
    pub(crate) async fn focused(&self) -> Option<String> {
        let focused = self.client.active_element().await.unwrap();
        focused.attr("class").await.unwrap()
    }

    async fn dev_tools(&self, command: &str, params: Value) -> Value {
        let command = DevTools(json!({ "cmd": command, "params": params }));
        self.client.issue_cmd(command).await.unwrap()
    }

    /// Looks at the page in each scheme and width: nothing is wider than the window, and no text has too
    /// little contrast with what is behind it.
    pub(crate) async fn look(&self, name: &str) {
        for (scheme, width) in [
            ("light", 1000),
            ("dark", 1000),
            ("light", 390),
            ("dark", 390),
        ] {
            let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
            self.dev_tools(
                "Emulation.setEmulatedMedia",
                json!({ "features": features }),
            )
            .await;
            let size = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500 });
            self.dev_tools("Emulation.setDeviceMetricsOverride", size)
                .await;
            let seen = self.client.execute(LOOK, vec![]).await.unwrap();
            assert_eq!(seen["overflow"], json!([]), "{name} {scheme} {width}");
            assert_eq!(seen["pale"], json!([]), "{name} {scheme} {width}");
            if std::env::var_os("UPDATE").is_some() && (scheme, width) != ("dark", 390) {
                let shot =
                    json!({ "format": "webp", "quality": 60, "captureBeyondViewport": true });
                let shot = self.dev_tools("Page.captureScreenshot", shot).await;
                let shot = decoded(shot["data"].as_str().unwrap());
                let kind = if width < 500 { "phone" } else { scheme };
                let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/desk");
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(format!("{name}-{kind}.webp")), shot).unwrap();
            }
        }
        let size = json!({ "width": 1000, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.dev_tools("Emulation.setDeviceMetricsOverride", size)
            .await;
    }
}

/// What is wider than the window, and what can hardly be read (WCAG 2.2, 1.4.3: a contrast of 4.5).
const LOOK: &str = "
    const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const colour = text => text.match(/[\\d.]+/g).map(Number);
    const behind = own => {
        for (; own; own = own.parentElement) {
            const back = colour(getComputedStyle(own).backgroundColor);
            if (back.length == 3 || back[3] == 1) return back;
        }
        return [255, 255, 255];
    };
    const all = [...document.querySelectorAll('body *')].filter(own => own.checkVisibility());
    const wide = own => own.getBoundingClientRect().right > innerWidth + 1 && !own.closest('.wide, svg');
    const pale = own => {
        const [one, other] = [light(colour(getComputedStyle(own).color)), light(behind(own))].sort();
        const says = [...own.childNodes].some(node => node.nodeType == 3 && node.data.trim());
        return says && (other + 0.05) / (one + 0.05) < 4.5;
    };
    return {
        overflow: document.documentElement.scrollWidth > innerWidth ? all.filter(wide).map(own => own.outerHTML) : [],
        pale: all.filter(pale).map(own => own.outerHTML),
    };
";

/// The bytes of base64.
fn decoded(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text
        .bytes()
        .filter_map(|byte| DIGITS.iter().position(|own| *own == byte));
    let (mut bits, mut count, mut bytes) = (0, 0, Vec::new());
    for digit in digits {
        bits = bits << 6 | digit;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).unwrap());
        }
    }
    bytes
}
