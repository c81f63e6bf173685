//! Those who answer in the chat. They are made when the server starts, and stay.

/// Hears all that is said, and answers some of it.
pub trait Bot: Send + Sync {
    fn name(&self) -> &str;

    fn reply(&self, text: &str) -> Option<String>;

    /// What it answers to.
    fn help(&self) -> String {
        format!("{} listens", self.name())
    }
}

pub struct Host;

impl Bot for Host {
    fn name(&self) -> &str {
        "Host"
    }

    fn reply(&self, text: &str) -> Option<String> {
        text.to_lowercase()
            .starts_with("hello")
            .then(|| "Hello! Save a file and hear me say it differently.".to_owned())
    }

    fn help(&self) -> String {
        "Host likes a hello".to_owned()
    }
}

pub struct Abacus;

impl Bot for Abacus {
    fn name(&self) -> &str {
        "Abacus"
    }

    fn reply(&self, text: &str) -> Option<String> {
        let mut words = text.split_whitespace();
        let (left, sign, right) = (words.next()?, words.next()?, words.next()?);
        let result = calculate(left.parse().ok()?, sign, right.parse().ok()?)?;
        Some(format!("{left} {sign} {right} = {result}"))
    }

    fn help(&self) -> String {
        "Abacus does sums, such as 6 * 7".to_owned()
    }
}

/// None for an unknown sign, and when there is no answer.
fn calculate(left: i64, sign: &str, right: i64) -> Option<i64> {
    match sign {
        "+" => left.checked_add(right),
        "-" => left.checked_sub(right),
        "*" => left.checked_mul(right),
        _ => None,
    }
}

pub struct Parrot {
    pub name: String,
}

impl Bot for Parrot {
    fn name(&self) -> &str {
        &self.name
    }

    fn reply(&self, text: &str) -> Option<String> {
        text.ends_with('!').then(|| text.to_uppercase())
    }
}

pub fn all() -> Vec<Box<dyn Bot>> {
    let parrot = Parrot {
        name: "Polly".to_owned(),
    };
    vec![Box::new(Host), Box::new(Abacus), Box::new(parrot)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abacus_calculates_and_is_silent_otherwise() {
        assert_eq!(Abacus.reply("6 * 7").as_deref(), Some("6 * 7 = 42"));
        assert_eq!(Abacus.reply("1 - 2").as_deref(), Some("1 - 2 = -1"));
        for text in ["6 *", "six * 7", "1 / 2", "9223372036854775807 + 1"] {
            assert_eq!(Abacus.reply(text), None, "{text}");
        }
    }

    #[test]
    fn each_answers_its_own() {
        let answers = |text: &str| -> Vec<String> {
            let replies = all().into_iter().map(|bot| (bot.reply(text), bot));
            replies
                .filter_map(|(reply, bot)| reply.map(|_| bot.name().to_owned()))
                .collect()
        };
        assert_eq!(answers("Hello"), ["Host"]);
        assert_eq!(answers("hello there!"), ["Host", "Polly"]);
        assert!(answers("2 and 2").is_empty());
    }

    #[test]
    fn help_names_who_helps() {
        let help: Vec<_> = all().iter().map(|bot| bot.help()).collect();
        assert_eq!(help[2], "Polly listens");
    }
}
