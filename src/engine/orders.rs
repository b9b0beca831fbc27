//! Commands in a pipeline: found their alarm or their model, judged, carried out before the tick's readings.
//!
//! The engine calls it. What a model failed at becomes a command here, for the journal.

use super::{Answer, Pipeline};
use crate::command::{Action, Command, Refusal};
use crate::frame::Input;
use crate::record::Now;
use crate::stage::{Around, Effects, Order};
use crate::time::Timestamp;

impl Pipeline {
    /// Whether a command for this pipeline can be carried out at `now`.
    pub(super) fn judge(&self, command: &Command, now: Timestamp) -> Result<(), Refusal> {
        if let Action::Model(action) = &command.action {
            let mut scores = self.stages.iter().filter_map(|s| s.stage.score());
            let found = scores.find(|score| score.loader().output() == command.alarm);
            return found.ok_or_else(|| no_score(command))?.judge_order(action);
        }
        let Some(asset) = self.assets.index(&command.asset) else {
            return Err(no_asset(command));
        };
        let mut judges = self.stages.iter().map(|s| s.stage.judge(command, asset, now));
        judges.find_map(|judged| judged).unwrap_or_else(|| Err(self.no_alarm(command)))
    }

    /// The tick's commands for this pipeline. They come before its readings, so an asset that only these bring is not
    /// known yet; such a command is answered here.
    pub(super) fn orders<'a>(&self, input: &'a [Input], answers: &mut [Answer]) -> Vec<Order<'a>> {
        let mut orders = Vec::new();
        for (number, command) in input.iter().flat_map(|i| &i.commands).enumerate() {
            if command.pipeline != self.name {
                continue;
            }
            let is_for_model = matches!(command.action, Action::Model(_));
            match self.assets.index(&command.asset).or(is_for_model.then_some(0)) {
                Some(asset) => orders.push(Order { command, number, asset }),
                None => answers[number] = Err(no_asset(command)),
            }
        }
        orders
    }

    /// Carries commands out.
    pub(super) fn obey(
        &mut self,
        orders: &[Order<'_>],
        around: &Around<'_>,
        effects: &mut Effects,
        answers: &mut [Answer],
    ) {
        for order in orders {
            let mut stages = self.stages.iter_mut();
            answers[order.number] = if let Action::Model(action) = &order.command.action {
                let mut scores = stages.filter_map(|s| s.stage.score_mut());
                let found = scores.find(|score| score.loader().output() == order.command.alarm);
                let score = found.ok_or_else(|| no_score(order.command));
                score
                    .and_then(|s| s.obey_order(order.command, action, around, effects))
                    .map(Now::Model)
            } else {
                let obeyed = stages.find_map(|s| s.stage.obey(*order, around, effects));
                let obeyed = obeyed.unwrap_or_else(|| Err(self.no_alarm(order.command)));
                obeyed.map(Now::Alarm)
            };
        }
    }

    fn no_alarm(&self, command: &Command) -> Refusal {
        let names = self.stages.iter().filter_map(|s| s.stage.alarm());
        let known: Vec<String> = names.map(|name| format!("`{name}`")).collect();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        let Command { pipeline, alarm, .. } = command.clone();
        Refusal::UnknownAlarm { pipeline, alarm, known }
    }

    /// What its models failed at in this tick and the journal does not know: as commands that make a replay fail at it.
    pub(super) fn take_faults(&mut self, faults: &mut Vec<Command>) {
        for score in self.stages.iter_mut().filter_map(|s| s.stage.score_mut()) {
            let alarm = score.loader().output().to_owned();
            faults.extend(score.take_faults().into_iter().map(|action| Command {
                pipeline: self.name.clone(),
                asset: String::new(),
                alarm: alarm.clone(),
                action: Action::Model(action),
                by: None,
            }));
        }
    }
}

fn no_asset(command: &Command) -> Refusal {
    Refusal::NoAsset { pipeline: command.pipeline.clone(), asset: command.asset.clone() }
}

fn no_score(command: &Command) -> Refusal {
    Refusal::NoScore { pipeline: command.pipeline.clone(), score: command.alarm.clone() }
}
