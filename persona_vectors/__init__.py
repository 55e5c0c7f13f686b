__version__ = "0.1.0"

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submod_attrs={
    'config': ['PersonaVectorConfig'],
    'personas': ['PERSONAS', 'NEUTRAL', 'EVAL_QUESTIONS', 'load_personas', 'load_questions'],
    'responses': ['Responses', 'load_responses', 'shipped_responses'],
    'selection': ['select'],
    'models': ['EMBEDDED', 'find_model'],
    'prompts': ['preview'],
    'generation.local': ['load_local'],
    'generation.answers': ['generate_responses'],
    'generation.judging': ['judge_responses'],
    'extraction.vectors': ['PersonaVectors', 'Direction', 'load_vectors', 'shipped_vectors'],
    'extraction.extractor': ['ActivationExtractor', 'extract_persona_vectors'],
    'analysis.axis': ['assistant_axis', 'compare_rankings', 'cosine_matrix', 'project', 'rank_personas', 'role_pca', 'tfidf_vectors'],
    'analysis.uncertainty': ['axis_strength', 'rank_intervals', 'reliability'],
    'analysis.figures': ['plot_cosine', 'plot_pca', 'plot_ranking', 'plot_variance'],
    'analysis.report': ['gather', 'evidence'],
    'analysis.comparison': ['compare'],
    'steering.steer': ['Steer', 'steered'],
    'steering.monitoring': ['Monitor'],
    'steering.interop': ['export_direction', 'load_direction'],
    'pipeline': ['run']})
