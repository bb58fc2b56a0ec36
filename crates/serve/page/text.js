// All words of the page, in English and Japanese. `{n}` is a value, `{n|image|images}` one of two words by its number.

const TEXTS = {
  skip: ['Skip to the content', '本文へ移動'],
  views: ['Views', '画面'],
  watch: ['Watch', '学習'],
  draw: ['Draw', '描画'],
  edit: ['Edit', '編集'],
  compare: ['Compare', '比較'],
  api: ['The API of this server', 'このサーバーの API'],
  theme_auto: ['Theme: as the system', 'テーマ：システムに合わせる'],
  theme_light: ['Theme: light', 'テーマ：ライト'],
  theme_dark: ['Theme: dark', 'テーマ：ダーク'],
  lost: ['The connection is lost. Trying again …', '接続が切れました。再接続しています…'],
  no_answer: ['The server does not answer. Is it still running?', 'サーバーが応答しません。動作しているか確認してください。'],
  too_many: ['You have too many drawings in work. Wait for one, or cancel it.', '描画中のものが多すぎます。終わるのを待つか、どれかを中止してください。'],
  queue_full: ['The queue of the server is full. Try again in a moment.', 'サーバーの待ち行列が満杯です。しばらくしてからもう一度お試しください。'],
  gone: ['The server does not have this drawing any more. Draw it again.', 'この描画はサーバーに残っていません。もう一度描いてください。'],

  // settings
  settings: ['Settings', '設定'],
  model: ['Model', 'モデル'],
  model_about: ['{class}, {height} × {width}, {channels|grey|colour}', '{class}、{height} × {width}、{channels|白黒|カラー}'],
  unfinished: ['unfinished training', '学習途中'],
  no_models: ['There is no model yet. Train one: kakusan train --config configs/184-fast.toml', 'モデルがまだありません。まず学習してください：kakusan train --config configs/184-fast.toml'],
  batch_size: ['Images', '枚数'],
  num_inference_steps: ['Steps', 'ステップ数'],
  seed: ['Seed', 'シード'],
  dice: ['Another seed', '別のシードにする'],
  seed_hint: ['Each image has its own seed: this one, and those after it.', '画像ごとに、ここから一つずつ増えるシードを使います。'],
  scheduler: ['Scheduler', 'スケジューラ'],
  own_scheduler: ['{name} (the model’s)', '{name}（このモデルの既定）'],
  class_label: ['Class', 'クラス'],
  in_turn: ['All in turn', 'すべてを順に'],
  guidance_scale: ['Guidance scale', 'ガイダンスの強さ'],
  eta: ['Eta, 0 to 1', 'η（0～1）'],
  more: ['More', '詳細'],
  guide: ['Guided by a loss', '損失によるガイダンス'],
  guide_hint: ['NAME=VALUE:STRENGTH, such as brightness=0.25:20', '名前=値:強さ。例：brightness=0.25:20'],
  needed: ['A number is needed here.', '数を入れてください。'],
  between: ['From {min} to {max}.', '{min} から {max} までです。'],
  whole: ['A whole number is needed here.', '整数を入れてください。'],

  // a drawing
  start_draw: ['Draw', '描く'],
  cancel: ['Cancel', '中止'],
  waiting: ['Waiting: {n|one drawing comes|{n} drawings come} first', '待機中（前に {n} 件）'],
  starting: ['Starting …', '準備中…'],
  drawing: ['Step {step} of {steps}', 'ステップ {step} / {steps}'],
  done: ['{n} {n|image|images} in {steps} steps, {seconds} s', '{n} 枚、{steps} ステップ、{seconds} 秒'],
  cancelled: ['Cancelled', '中止しました'],
  failed: ['The drawing failed: {error}', '描画に失敗しました：{error}'],
  empty_draw: ['Choose the settings, then draw. The images appear step by step.', '設定を選んで描いてください。画像は 1 ステップごとに現れます。'],
  trajectory: ['Trajectory, from noise to image', 'ノイズから画像までの軌道'],
  at_step: ['step {step} of {steps}', 'ステップ {step} / {steps}'],
  play: ['Play', '再生'],
  pause: ['Pause', '一時停止'],
  image_of: ['Image {n}, seed {seed}', '画像 {n}、シード {seed}'],
  again: ['Again with this seed', 'このシードでもう一度'],
  edit_this: ['Edit this image', 'この画像を編集'],
  download: ['Download', '保存'],
  download_all: ['Download all', 'すべて保存'],
  as_command: ['As a command', 'コマンドで表示'],
  inside: ['A downloaded PNG has its settings inside.', '保存した PNG には設定も記録されます。'],
  copy: ['Copy', 'コピー'],
  copied: ['Copied', 'コピーしました'],
  copy_by_key: ['Selected: press Ctrl+C', '選択済み：Ctrl+C を押してください'],

  // editing
  ways: ['What to do', '操作'],
  redraw: ['Redraw a picture', '画像を描き直す'],
  between_two: ['Between two images', '画像から画像へ'],
  upload: ['Upload a picture', '画像を読み込む'],
  draw_one: ['Draw one', '1 枚描く'],
  no_picture: ['Take a picture: one of yours, one that the model draws, or one from Draw.', '画像を選んでください。手元の画像、モデルが描く画像、「描画」で描いた画像が使えます。'],
  not_picture: ['This file is not a picture that the browser can read.', 'ブラウザで読める画像ではありません。'],
  mask_is: ['The picture and the mask: what is painted is redrawn', '画像とマスク：塗った部分を描き直します'],
  mask_keys: ['Paint with mouse, finger or pen. By keyboard: arrows move the brush, space paints, [ and ] change its size, Z undoes.', 'マウス、指、ペンで塗れます。キーボードでは、矢印で移動、スペースで塗り、[ と ] で太さ、Z で取り消しです。'],
  mask_state: ['{share} % masked, brush at {x}, {y}', 'マスク {share} %、ブラシの位置 {x}, {y}'],
  brush: ['Brush', 'ブラシ'],
  erase: ['Erase', '消す'],
  undo: ['Undo', '元に戻す'],
  clear: ['Clear', 'クリア'],
  invert: ['Invert', '反転'],
  strength: ['Strength', '強さ'],
  strength_hint: ['The share of the steps: little changes at 0.2, little remains at 1.', '行うステップの割合。0.2 ならあまり変わらず、1 なら元の画像はほとんど残りません。'],
  mask_way: ['Way of the mask', 'マスクの方式'],
  blend: ['blend', 'ブレンド'],
  repaint: ['RePaint (slower, seamless)', 'RePaint（遅いが、よくなじむ）'],
  repaint_mask: ['RePaint needs a mask: paint on the picture.', 'RePaint にはマスクが必要です。画像の上を塗ってください。'],
  start_edit: ['Redraw', '描き直す'],
  empty_edit: ['Paint the part to redraw. Without a mask, the whole picture is varied.', '描き直す部分を塗ってください。マスクがなければ、全体を描き変えます。'],
  from: ['From seed', 'はじめのシード'],
  to: ['To seed', 'おわりのシード'],
  frames: ['Frames', 'コマ数'],
  start_between: ['Draw the way', '途中を描く'],
  empty_between: ['The images between two seeds, as an animation.', '二つのシードの間の画像を、動画のように見られます。'],
  frame_of: ['image {n} of {all}', '{all} 枚中 {n} 枚目'],

  // comparing
  schedulers: ['Schedulers', 'スケジューラ'],
  steps_list: ['Steps', 'ステップ数'],
  steps_list_hint: ['One column for each, such as 5, 10, 30', '列ごとのステップ数。例：5, 10, 30'],
  steps_list_wrong: ['Whole numbers from 1 to {max}, with commas between them, 5 at most.', '1 から {max} までの整数を、カンマで区切って 5 個まで入れてください。'],
  choose_one: ['Choose at least one.', '一つ以上選んでください。'],
  start_compare: ['Compare', '比べる'],
  stop: ['Stop', '止める'],
  empty_compare: ['The same noise, drawn by one scheduler after the other.', '同じノイズから、スケジューラを替えて描き比べます。'],
  compared: ['{n} of {all} drawn', '{all} 通り中 {n} 通り'],
  columns: ['{n} {n|step|steps}', '{n} ステップ'],
  took: ['{seconds} s', '{seconds} 秒'],
  progress: ['Progress of the sampling', 'サンプリングの進み具合'],

  // trainings
  runs: ['Runs', '学習の一覧'],
  no_runs: ['No runs in this folder yet. A training that is started appears here by itself.', 'まだ学習がありません。学習を始めると、ここに自動で現れます。'],
  training: ['training', '学習中'],
  finished: ['finished', '完了'],
  stopped: ['stopped', '中断'],
  run_failed: ['failed', '失敗'],
  overlay: ['Show {name} in the curves', '{name} をグラフに表示'],
  curves: ['Curves', 'グラフ'],
  quantity: ['Shown', '表示'],
  loss: ['Loss', '損失'],
  lr: ['Learning rate', '学習率'],
  grad_norm: ['Gradient norm', '勾配のノルム'],
  log: ['Log scale', '対数目盛'],
  smoothing: ['Smoothing', '平滑化'],
  axis: ['Over', '横軸'],
  by_step: ['Steps', 'ステップ'],
  by_seconds: ['Seconds', '秒'],
  chart: ['Values at a step; the arrow keys move', 'その位置での値。矢印キーで動かせます'],
  at_x: ['step {x}', 'ステップ {x}'],
  at_seconds: ['{x} s', '{x} 秒'],
  validation: ['validation', '検証'],
  ema_validation: ['validation, averaged weights', '検証（重みの移動平均）'],
  no_records: ['No steps yet', 'まだ記録がありません'],
  step_of: ['Step', 'ステップ'],
  epoch: ['Epoch', 'エポック'],
  validation_loss: ['Validation loss', '検証の損失'],
  pictures: ['Pictures', '画像'],
  no_pictures: ['The first pictures appear after the first steps.', '最初の画像は、学習が少し進むと現れます。'],
  after_epoch: ['Samples after epoch {n}', '{n} エポック後のサンプル'],
  growing: ['Samples while the model learns', '学習とともに変わるサンプル'],
  figures: ['Figures of the samples', 'サンプルの評価'],
  no_figures: ['Not measured yet: kakusan eval --model {name}', 'まだ測っていません：kakusan eval --model {name}'],
  samples: ['Samples', 'サンプル'],
  held_out: ['Held-out images', '学習に使っていない画像'],
  frechet_distance: ['Fréchet distance', 'フレシェ距離'],
  kid: ['KID', 'KID'],
  precision: ['Precision', '適合率'],
  recall: ['Recall', '再現率'],
  nearest: ['Distance to the nearest', '最近傍までの距離'],
  sure: ['Classifier is sure (95 %)', '分類器の確信（95 %）'],
  config: ['Configuration', '設定ファイル'],
  draw_with: ['Draw with this model', 'このモデルで描く'],
};

const LANGUAGES = ['en', 'ja'];
let index = 0;

export const language = () => LANGUAGES[index];

/** The other language's own name. */
export const otherLanguage = () => ['日本語', 'English'][index];

/** Chooses the language: the one chosen before, else the browser's. */
export function chooseLanguage(chosen = localStorage.getItem('language') ?? navigator.language.slice(0, 2)) {
  index = Math.max(LANGUAGES.indexOf(chosen), 0);
  document.documentElement.lang = language();
  translate(document.body);
}

export function switchLanguage() {
  localStorage.setItem('language', LANGUAGES[1 - index]);
  chooseLanguage();
}

/** The text of a key, with its values. */
export function t(key, values = {}) {
  const words = TEXTS[key]?.[index];
  if (words === undefined) throw new Error(`text.js has no ${key}`);
  const plural = words.replace(/\{(\w+)\|([^|]*)\|((?:\{\w+\}|[^}])*)\}/g, (_, n, one, many) => (values[n] === 1 ? one : many));
  return plural.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Gives an element a text that follows the language. */
export function say(element, key, values) {
  element.dataset.t = key;
  if (values) element.dataset.values = JSON.stringify(values);
  else delete element.dataset.values;
  const text = t(key, values);
  if (element.textContent !== text) element.textContent = text; // an unchanged text is not announced again
}

/** Gives an element an accessible name that follows the language. */
export function label(element, key, values) {
  element.dataset.tLabel = key;
  if (values) element.dataset.labelValues = JSON.stringify(values);
  element.setAttribute('aria-label', t(key, values));
  if (element.tagName === 'BUTTON') element.title = t(key, values);
}

/** Removes an element's text. */
export function hush(element) {
  delete element.dataset.t;
  element.textContent = '';
}

function translate(root) {
  const values = (text) => (text ? JSON.parse(text) : undefined);
  for (const element of root.querySelectorAll('[data-t]')) {
    say(element, element.dataset.t, values(element.dataset.values));
  }
  for (const element of root.querySelectorAll('[data-t-label]')) {
    label(element, element.dataset.tLabel, values(element.dataset.labelValues));
  }
}

/** A number for readers, with so many significant digits; small ones as 1.20e-5. */
export function number(value, digits = 4) {
  if (value == null || !Number.isFinite(value)) return '–';
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(2);
  return value.toLocaleString(language(), { maximumSignificantDigits: digits });
}
