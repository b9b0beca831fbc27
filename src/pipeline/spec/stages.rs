//! Looking for a stage of one kind: its settings, where there is one.

use super::{
    AlarmSpec, DriftSpec, EmitSpec, PipelineSpec, ResampleSpec, ScoreSpec, StageSpec, WindowSpec,
};

macro_rules! settings {
    ($($name:ident: $kind:ident($spec:ty)),*) => {
        impl StageSpec {
            $(
                #[doc = concat!("Its settings where it is `", stringify!($name), "`.")]
                pub fn $name(&self) -> Option<&$spec> {
                    if let StageSpec::$kind(spec) = self { Some(spec) } else { None }
                }
            )*
        }
    };
}

settings!(
    resample: Resample(ResampleSpec),
    window: Window(WindowSpec),
    score: Score(ScoreSpec),
    drift: Drift(DriftSpec),
    alarm: Alarm(AlarmSpec),
    emit: Emit(EmitSpec)
);

impl PipelineSpec {
    /// How its grid is made.
    pub fn grid(&self) -> Option<&ResampleSpec> {
        self.stages.iter().find_map(StageSpec::resample)
    }

    /// How its windows are made.
    pub fn window(&self) -> Option<&WindowSpec> {
        self.stages.iter().find_map(StageSpec::window)
    }

    /// Its scores, in their order.
    pub fn scores(&self) -> impl Iterator<Item = &ScoreSpec> {
        self.stages.iter().filter_map(StageSpec::score)
    }

    /// The score called `output`.
    pub fn score(&self, output: &str) -> Option<&ScoreSpec> {
        self.scores().find(|score| score.output == output)
    }

    /// The first alarm on the score or feature `on`.
    pub fn alarm_on(&self, on: &str) -> Option<&AlarmSpec> {
        self.stages.iter().filter_map(StageSpec::alarm).find(|alarm| alarm.on == on)
    }
}
