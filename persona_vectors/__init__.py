__version__ = "0.1.0"

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(__name__, submod_attrs={
    'config': ['PersonaVectorConfig', 'layer_index', 'resolve_layers'],
    'personas': ['PERSONAS', 'PERSONA_CATEGORIES', 'NEUTRAL', 'CORE_PERSONAS', 'EVAL_QUESTIONS', 'load_personas', 'load_questions', 'category_of'],
    'responses': ['Response', 'Responses', 'load_responses', 'shipped_responses'],
    'selection': ['Answers', 'select'],
    'models': ['EMBEDDED', 'find_model'],
    'prompts': ['preview'],
    'generation.answers': ["generate_responses", "agenerate_responses", "estimate"],
    'extraction.vectors': ['PersonaVectors', 'Direction', 'load_vectors', 'shipped_vectors'],
    'extraction.extractor': ['ActivationExtractor', 'extract_persona_vectors'],
    'analysis.axis': ['assistant_axis', 'compare_rankings', 'cosine_matrix', 'project', 'rank_personas', 'role_pca', 'tfidf_vectors'],
    'analysis.figures': ['plot_cosine', 'plot_pca', 'plot_ranking', 'plot_variance', 'save_html'],
    'analysis.uncertainty': ['axis_strength', 'rank_intervals', 'reliability'],
    'analysis.comparison': ['compare'],
    'analysis.report': ['evidence'],
    'generation.local': ['LocalModel', 'load_local'],
    'steering.steer': ['Steer', 'answers_at', 'steered'],
    'steering.monitoring': ['Monitor'],
    'steering.interop': ['export_direction', 'export_roles', 'import_file', 'load_direction'],
    'steering.hub': ['push_to_hub', 'from_hub'],
    'generation.judging': ["judge_responses", "trait_rubric"],
    'verification': ['verify'],
    'extraction.parts': ['extract_shard'],
    'extraction.ray': ['extract_on_ray'],
    'extraction.planning': ['plan_run'],
    'pipeline': ['run']})
